/** What the commands write to: colours for people, plain lines for programs. The reader may leave at any time. */
import type { Environment } from '../config.ts'

export type Style = 'red' | 'green' | 'yellow' | 'dim' | 'bold'

export interface Terminal {
  /** A person reads; otherwise a pipe or a file. */
  readonly isInteractive: boolean
  /** One line, or several, to standard output, at once. */
  readonly print: (text: string) => void
  /** One line to standard error. */
  readonly complain: (text: string) => void
  readonly paint: (style: Style, text: string) => string
}

const CODES: Readonly<Record<Style, number>> = { bold: 1, dim: 2, red: 31, green: 32, yellow: 33 }

export function openTerminal(environment: Environment): Terminal {
  const isInteractive = process.stdout.isTTY
  return {
    isInteractive,
    print: (text) => { process.stdout.write(`${text}\n`) },
    complain: (text) => { process.stderr.write(`freshet: ${text}\n`) },
    paint: painter(isInteractive && allowsColour(environment)),
  }
}

/** [no-color.org] any value but the empty one switches colours off. */
export function allowsColour(environment: Environment): boolean {
  return (environment['NO_COLOR'] ?? '') === '' && environment['TERM'] !== 'dumb'
}

export function painter(isColoured: boolean): Terminal['paint'] {
  return (style, text) => isColoured ? `\u001b[${CODES[style]}m${text}\u001b[0m` : text
}

/** A reader that has seen enough (`| head -1`) closes the pipe; that is no failure. */
export function leaveWithReader(): void {
  process.stdout.on('error', (error: Error) => {
    if ('code' in error && error.code === 'EPIPE') process.exit(0)
    throw error
  })
}

/** Columns as wide as their widest cell; the last one is not padded. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)))
  return rows.map((row) => row.map((cell, column) => column === row.length - 1 ? cell : cell.padEnd(widths[column] ?? 0)).join('  ')).join('\n')
}

/** Text of strangers, fit for a terminal: no control character reaches it. */
export function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (character) => `\\u${(character.codePointAt(0) ?? 0).toString(16).padStart(4, '0')}`)
}
