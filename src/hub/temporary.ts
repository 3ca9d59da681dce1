/** Files for what is too large for memory. Promise: nothing is left behind, however the process ends. */
import { randomBytes } from 'node:crypto'
import { open, rm, type FileHandle } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** Unlinked while it is open: it goes with its handle. */
export async function openTemporary(): Promise<FileHandle> {
  const path = join(tmpdir(), `freshet-${randomBytes(12).toString('hex')}`)
  const file = await open(path, 'wx+', 0o600)
  await rm(path)
  return file
}

/** Loud: what was written in part is not there. */
export async function writeWhole(file: FileHandle, buffers: readonly Buffer[], offset: number): Promise<number> {
  const bytes = buffers.reduce((sum, { length }) => sum + length, 0)
  const { bytesWritten } = await file.writev(buffers, offset)
  if (bytesWritten < bytes) throw new Error(`only ${bytesWritten} of ${bytes} bytes could be written to ${tmpdir()}`)
  return bytes
}
