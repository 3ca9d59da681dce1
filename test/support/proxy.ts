/** A fault proxy for the tests of one file, closed with it. */
import { openFaultProxy, type FaultProxy } from './fault-proxy.ts'
import { closeAtEnd } from './cleanup.ts'

export type Proxy = FaultProxy

export async function startProxy(target: string): Promise<Proxy> {
  const proxy = await openFaultProxy(target)
  closeAtEnd(() => proxy.close())
  return proxy
}
