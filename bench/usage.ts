/** What processes have used, by the kernel's account (Linux). */
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'

const TICKS_A_SECOND = 100

/** User and system time of a process so far, ms; to the nanosecond where the kernel keeps scheduler statistics. */
export async function cpuMs(processId: number): Promise<number> {
  const threads = await readdir(`/proc/${processId}/task`)
  const times = await Promise.all(threads.map((thread) =>
    readFile(`/proc/${processId}/task/${thread}/schedstat`, 'utf8').then((text) => Number(text.split(' ')[0]) / 1e6, () => 0)))
  return times.reduce((sum, time) => sum + time, 0)
}

/** The same of PostgreSQL: the postmaster, its children, and those that have ended. */
export async function postgresCpuMs(postmasterId: number): Promise<number> {
  const [own, ended, children] = await Promise.all([cpuMs(postmasterId), endedChildrenMs(postmasterId), childrenOf(postmasterId)])
  const times = await Promise.all(children.map((id) => cpuMs(id).catch(() => 0)))
  return own + ended + times.reduce((sum, time) => sum + time, 0)
}

export async function childrenOf(processId: number): Promise<readonly number[]> {
  const threads = await readdir(`/proc/${processId}/task`)
  const texts = await Promise.all(threads.map((thread) => readFile(`/proc/${processId}/task/${thread}/children`, 'utf8')))
  return texts.join(' ').split(' ').filter((id) => id !== '').map(Number)
}

async function endedChildrenMs(processId: number): Promise<number> {
  const stat = await readFile(`/proc/${processId}/stat`, 'utf8')
  // [proc(5)] fields 16 and 17, cutime and cstime; the name in field 2 may hold spaces.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[13]) + Number(fields[14])) * 1_000 / TICKS_A_SECOND
}

/** Resident memory in bytes, once garbage has been collected and it no longer falls. For a Node process started with SETTLING; another just waits. */
export async function settledBytes(processId: number, isNode: boolean): Promise<number> {
  let least = Infinity
  for (let round = 0; round < 2; round += 1) {
    if (isNode) process.kill(processId, 'SIGUSR2')
    await delay(200)
    least = Math.min(least, await statusBytes(processId, 'VmRSS'))
  }
  return least
}

/** The most memory it has had resident since `forgetPeak`, bytes. */
export function peakBytes(processId: number): Promise<number> {
  return statusBytes(processId, 'VmHWM')
}

export function residentBytes(processId: number): Promise<number> {
  return statusBytes(processId, 'VmRSS')
}

export async function forgetPeak(processId: number): Promise<void> {
  // [proc(5)] 5: reset the peak resident set size to the current one.
  await writeFile(`/proc/${processId}/clear_refs`, '5')
}

async function statusBytes(processId: number, field: 'VmRSS' | 'VmHWM'): Promise<number> {
  const status = await readFile(`/proc/${processId}/status`, 'utf8')
  return Number(new RegExp(`${field}:\\s+(\\d+) kB`).exec(status)?.[1]) * 1_024
}

/** Memory that the kernel holds for TCP sockets, both ends of a loopback connection, bytes. */
export async function kernelSocketBytes(): Promise<number> {
  const text = await readFile('/proc/net/sockstat', 'utf8')
  return Number(/TCP:.* mem (\d+)/.exec(text)?.[1]) * 4_096
}
