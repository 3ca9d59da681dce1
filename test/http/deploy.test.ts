/** The files in `deploy/` that no test can run: what they name has to exist. */
import { readFile } from 'node:fs/promises'
import { beforeAll, describe, expect, it } from 'vitest'
import { parse } from 'yaml'
import { readConfig } from '../../src/config.ts'
import { startTestServer, type TestServer } from '../support/server.ts'

const read = (name: string): Promise<string> => readFile(new URL(`../../deploy/${name}`, import.meta.url), 'utf8')

/** Every figure that a PromQL expression in the text asks for. */
function figuresIn(text: string): readonly string[] {
  return [...new Set(text.match(/\b(?:freshet|nodejs|process)_\w+/g))]
}

describe('the alerts and the dashboard', () => {
  let server: TestServer
  beforeAll(async () => { server = await startTestServer({ setup: `create table public.items (id int primary key); select freshet.watch('public.items')` }) })
  const metrics = async (): Promise<string> => (await server.get('/metrics')).text()

  it.each(['alerts.yml', 'grafana.json'])('of %s ask for figures that a server gives', async (name) => {
    const figures = figuresIn(await read(name))
    expect(figures.length).toBeGreaterThan(5)
    const given = new Set([...(await metrics()).matchAll(/^# TYPE (\S+)/gm)].map(([, figure]) => figure))
    expect(figures.filter((figure) => !given.has(figure))).toEqual([])
  })

  it('ask for the route of polls by its name', async () => {
    await server.poll('items')
    const [, route] = /route=\\"([^"\\]+)\\"/.exec(await read('grafana.json')) ?? []
    await expect.poll(metrics).toContain(`route="${String(route)}"`)
  })

  it('say what is wrong and what to do about it', async () => {
    const { groups } = parse(await read('alerts.yml')) as { groups: readonly { rules: readonly { expr: string; labels: object; annotations: object }[] }[] }
    for (const { expr, labels, annotations } of groups.flatMap(({ rules }) => rules)) {
      expect(figuresIn(expr).length + Number(expr.startsWith('up{'))).toBeGreaterThan(0)
      expect(labels).toHaveProperty('severity')
      expect(Object.keys(annotations)).toEqual(['summary', 'action'])
    }
  })
})

describe('the containers', () => {
  it('give the server a configuration that it takes', async () => {
    const { services } = parse(await read('compose.yaml')) as { services: Readonly<Record<string, { environment: Record<string, string> }>> }
    const environment = services['freshet']?.environment ?? {}
    const known = await readFile(new URL('../../src/config.ts', import.meta.url), 'utf8')
    expect(Object.keys(environment).filter((name) => !known.includes(`'${name}'`))).toEqual([])
    expect(readConfig(environment).databaseUrl).toContain('@database:5432/')
  })
})
