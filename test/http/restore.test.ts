/** A database that is restored from a dump: what its log says belongs to another cluster. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { describe, expect, it, onTestFinished } from 'vitest'
import { findProgram15 } from '../support/cluster.ts'
import { openHere, serve, startCluster, startPlace } from '../support/place.ts'
import { Following } from '../support/replica.ts'
import { requireTool } from '../support/tools.ts'
import { expectTruth } from '../support/writer.ts'

const execute = promisify(execFile)
const dump = findProgram15('pg_dump')
const psql = findProgram15('psql')

describe.skipIf(!requireTool('pg_dump 15', dump !== null && psql !== null))('a dump restored into another cluster', () => {
  it('Loud, No loss: begins a new epoch: every client gets a reset, no foreign transaction id matches, and all is live', { timeout: 90_000 }, async () => {
    const { cluster, database, test } = await startPlace({ major: 15 })
    // Ids beyond those of the new cluster would look like transactions of its future.
    for (let id = 1; id <= 200; id += 1) await database.query('insert into t values ($1, 0)', [id])
    let home = test
    const following = new Following().start(() => home.url, 't')
    onTestFinished(() => following.stop())
    await expectTruth(database, [following])
    const before = await test.poll('t')
    await test.close()

    // The clusters are of one version and one password each: plain SQL goes from one to the other.
    const { stdout: sql } = await execute(String(dump), ['--dbname', cluster.url], { maxBuffer: 64e6 })
    const other = await startCluster({ major: 15 })
    const restoring = execute(String(psql), ['--quiet', '--set', 'ON_ERROR_STOP=1', '--dbname', other.url])
    restoring.child.stdin?.end(sql)
    await restoring
    const restored = openHere(other.url)
    await restored.query('insert into t values (1001, 1); delete from t where id = 1')
    home = await serve(restored)

    for (const since of [before.version, `${before.version.split('.')[0]}.${Number(before.version.split('.')[1]) - 1}`]) {
      // Until its clock leads a server knows no other epoch.
      await expect.poll(async () => (await home.poll('t', `?since=${since}`)).reset, { timeout: 10_000 }).toBe(true)
      const answer = await home.poll('t', `?since=${since}`)
      expect(answer.changes).toHaveLength(200)
      expect(answer.version.split('.')[0], 'another epoch').not.toBe(before.version.split('.')[0])
    }
    await expect.poll(() => following.replica.resets, { timeout: 10_000 }).toBe(2)
    await restored.query('insert into t values (1002, 1); update t set v = 2 where id = 1001; delete from t where id = 2')
    await expectTruth(restored, [following])
    // The triggers are others, so that the first look for drift resets once more.
    expect(following.replica.resets, 'live, not reset again and again').toBeLessThanOrEqual(3)
    expect((await home.get('/readyz')).status).toBe(200)
  })
})
