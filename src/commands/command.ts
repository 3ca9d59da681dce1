/**
 * What a command is, and how its part of the command line is read. Promise: whatever cannot be meant is refused with one
 * sentence that names the cure, before the command does anything.
 */
import { parseArgs, type ParseArgsConfig } from 'node:util'
import type { Config } from '../config.ts'
import { StartupError } from '../errors.ts'
import type { Terminal } from './terminal.ts'

export interface Option {
  /** What stands for the value in the help. Without it the option is a switch. */
  readonly value?: string
  /** It may be given more than once. */
  readonly repeats?: boolean
  readonly help: string
}

export interface Context {
  readonly config: Config
  readonly terminal: Terminal
}

export interface Command {
  readonly name: string
  /** Names of what must be given, in order. */
  readonly parameters: readonly string[]
  readonly summary: string
  readonly options: Readonly<Record<string, Option>>
  /** What the reader of the help should know besides; lines of at most 80 characters. */
  readonly notes?: string
  /** Resolves to the exit code. Throws StartupError. */
  run(input: Input, context: Context): Promise<number>
}

type Values = Readonly<Record<string, string | boolean | (string | boolean)[] | undefined>>

/** What was given to a command. */
export class Input {
  readonly #parameters: ReadonlyMap<string, string>
  readonly #values: Values

  constructor(parameters: ReadonlyMap<string, string>, values: Values) {
    this.#parameters = parameters
    this.#values = values
  }

  parameter(name: string): string {
    return this.#parameters.get(name) ?? ''
  }

  has(option: string): boolean {
    return this.#values[option] === true
  }

  text(option: string): string | undefined {
    const value = this.#values[option]
    return typeof value === 'string' ? value : undefined
  }

  texts(option: string): readonly string[] {
    const value = this.#values[option]
    return Array.isArray(value) ? value.map(String) : []
  }

  /** `a,b`, or null where the option was not given. */
  list(option: string): readonly string[] | null {
    const text = this.text(option)
    return text === undefined ? null : text.split(',').map((part) => part.trim()).filter((part) => part !== '')
  }
}

const HELP = { help: { type: 'boolean', short: 'h' } } as const

/** Null: help was asked for. Throws StartupError. */
export function readInput(command: Command, args: readonly string[]): Input | null {
  const { values, positionals } = parse(command, args)
  if (values['help'] === true) return null
  const missing = command.parameters[positionals.length]
  if (missing !== undefined) throw new StartupError(`${command.name} needs a <${missing}>`, `write it as "freshet ${usage(command)}"`)
  const extra = positionals[command.parameters.length]
  if (extra !== undefined) throw new StartupError(`${command.name} does not take ${JSON.stringify(extra)}`, `write it as "freshet ${usage(command)}"`)
  return new Input(new Map(command.parameters.map((name, index) => [name, positionals[index] ?? ''])), values)
}

function parse(command: Command, args: readonly string[]): { values: Values; positionals: string[] } {
  const options: ParseArgsConfig['options'] = { ...HELP }
  for (const [name, { value, repeats = false }] of Object.entries(command.options)) {
    options[name] = { type: value === undefined ? 'boolean' : 'string', multiple: repeats }
  }
  try {
    return parseArgs({ args: [...args], options, allowPositionals: true, strict: true })
  } catch (error) {
    if (!(error instanceof TypeError)) throw error
    // The first sentence says what is wrong; what follows it advises on the syntax of options in general.
    const reason = error.message.split(/\.?\n|\. /, 1)[0] ?? error.message
    throw new StartupError(`${command.name}: ${reason.charAt(0).toLowerCase()}${reason.slice(1)}`, `run "freshet ${command.name} --help" for its options`, { cause: error })
  }
}

/** `watch <table> [--channel <name>] …` */
export function usage({ name, parameters, options }: Command): string {
  const given = Object.entries(options).map(([option, { value, repeats }]) =>
    `[--${option}${value === undefined ? '' : ` ${value}`}]${repeats === true ? '…' : ''}`)
  return [name, ...parameters.map((parameter) => `<${parameter}>`), ...given].join(' ')
}

/** The whole help of one command. */
export function help(command: Command): string {
  const options = Object.entries({ ...command.options, help: { help: 'show this' } }).map(([name, option]: [string, Option]): [string, string] =>
    [`  --${name}${option.value === undefined ? '' : ` ${option.value}`}`, option.help])
  const width = Math.max(...options.map(([left]) => left.length)) + 2
  return [
    `freshet ${command.name} - ${command.summary}`, '',
    `Usage: freshet ${usage(command)}`, '',
    ...options.map(([left, right]) => `${left.padEnd(width)}${right}`),
    ...command.notes === undefined ? [] : ['', command.notes],
  ].join('\n')
}
