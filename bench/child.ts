/** Processes of our own that are asked questions: both ends. A child that dies, or throws, fails whoever asked. */
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

/** What a child can be asked: functions of one JSON value, or of none. */
export type Service = Readonly<Record<string, (argument: never) => unknown>>

interface Question {
  readonly id: number
  readonly name: string
  readonly argument: unknown
}

interface Reply {
  readonly id: number
  readonly result?: unknown
  readonly error?: string
}

/** Has Node collect its garbage when it gets SIGUSR2, so that memory in use can be told from memory not yet given back. */
export const SETTLING = ['--expose-gc', '--import', 'data:text/javascript,process.on("SIGUSR2",()=>globalThis.gc())']

interface Waiting {
  readonly resolve: (result: unknown) => void
  readonly reject: (error: Error) => void
}

export class Child<S extends Service> {
  readonly #process: ChildProcess
  readonly #waiting = new Map<number, Waiting>()
  #lastId = 0

  /** `file`: a module of this folder that ends in `serve(…)`. */
  constructor(file: string) {
    this.#process = fork(fileURLToPath(new URL(file, import.meta.url)), { execArgv: [...SETTLING, '--import', 'tsx'] })
    this.#process.on('message', (message) => this.#settle(message as Reply))
    this.#process.on('exit', (code, signal) => {
      for (const { reject } of this.#waiting.values()) reject(new Error(`${file} ended: ${signal ?? String(code)}`))
    })
  }

  get processId(): number {
    return this.#process.pid ?? 0
  }

  ask<Name extends keyof S & string>(name: Name, ...[argument]: Parameters<S[Name]>): Promise<Awaited<ReturnType<S[Name]>>> {
    return new Promise((resolve, reject) => {
      const id = this.#lastId += 1
      // What comes back is what the function of that name returned.
      this.#waiting.set(id, { resolve: (result) => resolve(result as Awaited<ReturnType<S[Name]>>), reject })
      this.#process.send({ id, name, argument } satisfies Question, (error) => { if (error !== null) reject(error) })
    })
  }

  async stop(): Promise<void> {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return
    const exited = once(this.#process, 'exit')
    this.#process.kill('SIGKILL')
    await exited
  }

  #settle({ id, result, error }: Reply): void {
    const waiting = this.#waiting.get(id)
    this.#waiting.delete(id)
    if (error === undefined) waiting?.resolve(result)
    else waiting?.reject(new Error(error))
  }
}

/** In the child: answers until the parent is gone. */
export function serve(service: Service): void {
  const answer = async ({ id, name, argument }: Question): Promise<void> => {
    try {
      const result = await service[name]?.(argument as never)
      process.send?.({ id, result } satisfies Reply)
    } catch (error) {
      process.send?.({ id, error: error instanceof Error ? error.stack ?? error.message : String(error) } satisfies Reply)
    }
  }
  process.on('message', (message) => void answer(message as Question))
  process.on('disconnect', () => process.exit())
}
