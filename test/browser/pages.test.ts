/** The pages as people use them: real Chromium, a real server, votes that are rows in PostgreSQL. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { chromium, type BrowserContext, type Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createDatabase, hasPostgres } from '../support/database.ts'
import { freePort } from '../support/ports.ts'
import { startTestServer, type TestServer } from '../support/server.ts'
import { findExecutable, requireTool } from '../support/tools.ts'

const executable = findExecutable('chromium')

/** Without these, Chromium calls home at every start. */
const QUIET = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']

describe.skipIf(!hasPostgres || !requireTool('Chromium', executable !== null))('the pages in Chromium', () => {
  let browser: BrowserContext
  let profile: string
  let test: TestServer
  const failures: string[] = []

  beforeAll(async () => {
    test = await startTestServer({ demo: true })
    profile = await mkdtemp(join(tmpdir(), 'freshet-chromium-'))
    browser = await chromium.launchPersistentContext(profile, { executablePath: executable ?? '', headless: true, args: QUIET })
  })
  afterAll(async () => {
    await browser.close()
    await rm(profile, { recursive: true, force: true })
  })

  async function open(path: string): Promise<Page> {
    const page = await browser.newPage()
    page.on('pageerror', (error) => failures.push(`${path}: ${error.message}`))
    page.on('console', (message) => { if (message.type() === 'error') failures.push(`${path}: ${message.text()}`) })
    await page.goto(test.url + path)
    return page
  }

  const votes = (page: Page, id: number): Promise<string | null> => page.getByTestId(`votes-${id}`).textContent()

  it('a vote cast in one window moves the bars in another', async () => {
    const [here, there] = [await open('/'), await open('/')]
    await expect.poll(() => votes(there, 2)).toBe('0')
    await here.getByTestId('vote-2').click()
    await expect.poll(() => votes(there, 2)).toBe('1')
    await expect.poll(() => votes(here, 2)).toBe('1')
    expect(await here.getByTestId('version').textContent()).toBe(await there.getByTestId('version').textContent())
    expect(await here.getByTestId('state').textContent()).toBe('live')
    await expect.poll(() => here.getByTestId('latency').textContent()).toMatch(/ms$/)
    await Promise.all([here.close(), there.close()])
  })

  it('a row written by any other program arrives as well, and a new and a deleted one', async () => {
    const page = await open('/')
    await expect.poll(() => votes(page, 1)).toBe('0')
    await test.database.query(`begin; update public.options set votes = 41 where id = 1; insert into public.options (id, label) values (9, '<b>Cocoa</b>'); commit`)
    await expect.poll(() => votes(page, 1)).toBe('41')
    await expect.poll(() => page.getByTestId('option-9').textContent()).toContain('<b>Cocoa</b>')
    await test.database.query('delete from public.options where id = 9')
    await expect.poll(() => page.getByTestId('option-9').count()).toBe(0)
    await page.close()
  })

  it('votes can be cast with the keyboard alone', async () => {
    const page = await open('/')
    await expect.poll(() => votes(page, 3)).toBe('0')
    await page.getByTestId('vote-3').focus()
    await page.keyboard.press('Enter')
    await expect.poll(() => votes(page, 3)).toBe('1')
    await page.close()
  })

  it('the television shows the vote at its next poll, and when and why it will ask', async () => {
    const page = await open('/tv')
    await expect.poll(() => votes(page, 4)).toBe('0')
    await expect.poll(() => page.getByTestId('next').textContent()).toMatch(/\d+ s/)
    expect(await page.getByTestId('reason').textContent()).not.toBe('')
    await test.database.query('update public.options set votes = votes + 5 where id = 4')
    await expect.poll(() => votes(page, 4), { timeout: 25_000 }).toBe('5')
    await page.close()
  })

  it('the television starts over at a reset', async () => {
    const page = await open('/tv')
    await expect.poll(() => page.getByTestId('option-1').count()).toBe(1)
    await test.database.query(`begin; truncate public.options; insert into public.options values (1, 'Anew', 3); commit`)
    await expect.poll(() => page.getByTestId('option-2').count(), { timeout: 25_000 }).toBe(0)
    expect(await votes(page, 1)).toBe('3')
    await page.close()
  })

  it('the reference describes every operation and tries one', async () => {
    const page = await open('/docs')
    await expect.poll(() => page.locator('[id^="op-"]').count()).toBeGreaterThan(8)
    expect(await page.locator('#unknown_channel').count()).toBe(1)
    const poll = page.locator('#op-pollChanges')
    await poll.getByRole('button', { name: 'Send' }).click()
    await expect.poll(() => poll.textContent()).toMatch(/200[^]*"reset": true/)
    await page.close()
  })

  it('nothing failed on any page', () => {
    expect(failures).toEqual([])
  })
})

describe.skipIf(!hasPostgres || executable === null)('native EventSource', () => {
  it('resumes without a gap after the server is restarted', async () => {
    const database = await createDatabase()
    await database.query(`create table steps (id int primary key); select freshet.watch('steps')`)
    const environment = { PORT: String(await freePort()) }
    const first = await startTestServer({ database, environment })
    const profile = await mkdtemp(join(tmpdir(), 'freshet-chromium-'))
    const browser = await chromium.launchPersistentContext(profile, { executablePath: executable ?? '', headless: true, args: QUIET })
    try {
      const page = await browser.newPage()
      await page.goto(`${first.url}/healthz`)
      await page.evaluate(listen)
      await expect.poll(() => page.evaluate(seen)).toMatchObject({ resets: 1 })
      await database.query('insert into steps select generate_series(1, 10)')
      await expect.poll(() => page.evaluate(seen)).toMatchObject({ ids: 10 })
      await first.close()
      await database.query('insert into steps select generate_series(11, 20)')
      const second = await startTestServer({ database, environment })
      await database.query('insert into steps select generate_series(21, 30)')
      await expect.poll(() => page.evaluate(seen), { timeout: 20_000 }).toEqual({ resets: 1, ids: 30, gaps: [], closed: false })
      await second.close()
    } finally {
      await browser.close()
      await rm(profile, { recursive: true, force: true })
    }
  })
})

/** Runs in the page: the plainest client there is. A delta that does not begin where the last one ended is a gap. */
const listen = `(() => {
  const stream = new EventSource('/v1/channels/steps/stream')
  const state = { stream, resets: 0, ids: new Set(), version: null, gaps: [] }
  stream.onmessage = ({ data }) => {
    const delta = JSON.parse(data)
    if (delta.reset) { state.resets += 1; state.ids.clear() }
    else if (delta.since !== state.version) state.gaps.push([state.version, delta.since])
    state.version = delta.version
    for (const { row } of delta.changes) state.ids.add(row.id)
  }
  window.state = state
})()`
const seen = `({ resets: state.resets, ids: state.ids.size, gaps: state.gaps, closed: state.stream.readyState === 2 })`
