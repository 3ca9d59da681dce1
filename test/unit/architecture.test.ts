/** The tree is the picture: which stage may know which. An arrow that is not here is drawn by changing this table, on purpose. */
import { readdirSync, readFileSync } from 'node:fs'
import { join, normalize, dirname } from 'node:path'
import { describe, expect, it } from 'vitest'

const ARROWS: Readonly<Record<string, readonly string[]>> = {
  contract: ['errors.ts'],
  database: ['errors.ts'],
  clock: ['database', 'contract', 'errors.ts'],
  hub: ['contract', 'errors.ts'],
  pace: ['contract'],
  transport: ['hub', 'pace', 'contract', 'errors.ts'],
  client: ['contract'],
}

/** Packages that only one stage may touch. */
const OWNERS: Readonly<Record<string, string>> = { pg: 'database', 'pg-listen': 'database', express: 'transport', 'better-sse': 'transport', 'lru-cache': 'hub or transport' }

interface Import {
  readonly file: string
  readonly from: string
  readonly to: string
}

function importsOf(folder: string): readonly Import[] {
  return readdirSync(join('src', folder)).filter((name) => name.endsWith('.ts')).flatMap((name) => {
    const file = join('src', folder, name)
    return [...readFileSync(file, 'utf8').matchAll(/^(?:import|export) (?:type )?(?:[\w*{][\w\s,{}*]* from )?['"]([^'"]+)['"]/gm)].map(([, target = '']) => ({ file, from: folder, to: target }))
  })
}

describe('the arrows of the architecture', () => {
  for (const [folder, allowed] of Object.entries(ARROWS)) {
    it(`${folder} knows only ${[...allowed, 'itself'].join(', ')}`, () => {
      const strangers = importsOf(folder).filter(({ to }) => to.startsWith('.')).filter(({ file, to }) => {
        const [, stage = ''] = normalize(join(dirname(file), to)).split('/')
        return stage !== folder && !allowed.includes(stage)
      })
      expect(strangers).toEqual([])
    })
  }

  it('a package that talks to the outside is touched by one stage only', () => {
    const strangers = Object.keys(ARROWS).flatMap(importsOf).filter(({ from, to }) => OWNERS[to] !== undefined && !OWNERS[to].includes(from))
    expect(strangers).toEqual([])
  })

  it('only the configuration reads the environment; the launcher hands it on to PostgreSQL', () => {
    const readers = Object.keys(ARROWS).flatMap((folder) => readdirSync(join('src', folder)).map((name) => join('src', folder, name)))
      .filter((file) => file.endsWith('.ts') && readFileSync(file, 'utf8').includes('process.env'))
    expect(readers).toEqual(['src/database/embedded-process.ts'])
  })
})
