/** Writers that update as fast as they can: pgbench, which costs less than any writer of ours would. */
import { execFile } from 'node:child_process'
import { rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { findExecutable } from '../test/support/tools.ts'

const program = findExecutable('pgbench', ['/usr/lib/postgresql/15/bin'])
/** Debian: postgresql-15 (any version serves). */
export const hasPgbench = program !== null

export interface Writers {
  readonly url: string
  /** pgbench's own language: `\set id random(1, 1000)` and statements. */
  readonly script: string
  readonly count: number
  readonly seconds: number
}

export interface Written {
  readonly transactionsASecond: number
  readonly transactions: number
}

export async function write({ url, script, count, seconds }: Writers): Promise<Written> {
  if (program === null) throw new Error('pgbench is not installed')
  const path = join(tmpdir(), `freshet-pgbench-${process.pid}-${Math.random().toString(36).slice(2)}.sql`)
  await writeFile(path, script)
  try {
    const { stdout } = await promisify(execFile)(program, ['-n', '-M', 'prepared', '-f', path, '-c', String(count), '-j', '2', '-T', String(seconds), url])
    const transactions = Number(/actually processed: (\d+)/.exec(stdout)?.[1])
    const failed = Number(/failed transactions: (\d+)/.exec(stdout)?.[1])
    if (failed > 0 || !(transactions > 0)) throw new Error(`pgbench: ${stdout}`)
    return { transactions, transactionsASecond: Number(/tps = ([\d.]+)/.exec(stdout)?.[1]) }
  } finally {
    await rm(path, { force: true })
  }
}
