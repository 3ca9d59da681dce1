/** Tests that need a tool from outside npm run where it is; elsewhere they say by name that they are left out. */
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'

/** With REQUIRE_TOOLS=1 an absent tool is an error: nothing is left out silently. */
export function requireTool(name: string, isThere: boolean): boolean {
  if (isThere) return true
  if (process.env['REQUIRE_TOOLS'] === '1') throw new Error(`${name} is not installed, and REQUIRE_TOOLS=1 asks for every tool`)
  console.log(`left out: ${name} is not installed`)
  return false
}

/** The path of an executable on PATH or in one of `directories`; null when there is none. */
export function findExecutable(name: string, directories: readonly string[] = []): string | null {
  for (const directory of [...directories, ...(process.env['PATH'] ?? '').split(delimiter)]) {
    const path = join(directory, name)
    try {
      accessSync(path, constants.X_OK)
      return path
    } catch { /* not here */ }
  }
  return null
}
