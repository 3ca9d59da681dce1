/** A process with nothing but a clock: `node --import tsx frozen-clock.ts <url> <idle ms>`. Says "leads" and "lost"; for tests that stop it. */
import { Clock } from '../../src/clock/clock.ts'

const [url = '', idleMs = '1000'] = process.argv.slice(2)

new Clock({
  url, safetyMs: 200, idleMs: Number(idleMs),
  onVersion: () => undefined, onRead: () => undefined, beforeLeading: () => Promise.resolve(), onError: () => undefined,
  onLeading: (isLeading) => process.stdout.write(isLeading ? 'leads\n' : 'lost\n'),
}).start()
// The clock's connection keeps the process alive; so does this while there is none.
setInterval(() => undefined, 60_000)
