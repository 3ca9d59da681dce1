// Reads Server-Sent Events from a fetch, because a try-it has to show what EventSource hides: the status, the
// headers, the comments and the retry time.

/** Calls `onEvent({ event, id, retry, data, comment })` for each block of the stream, until it ends. */
export async function readEvents(body, onEvent) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader()
  let text = ''
  for (;;) {
    const { done, value } = await reader.read()
    if (done) return
    text += value
    // A block ends with an empty line; what follows the last one is still on its way. A lone \r at the very end
    // may be half of a \r\n.
    const held = text.endsWith('\r') ? text.slice(0, -1) : text
    const blocks = held.replaceAll('\r\n', '\n').replaceAll('\r', '\n').split('\n\n')
    text = blocks.pop() + text.slice(held.length)
    blocks.filter((block) => block.trim() !== '').forEach((block) => onEvent(parseBlock(block)))
  }
}

function parseBlock(block) {
  const fields = { event: '', id: undefined, retry: undefined, comment: undefined }
  const data = []
  for (const line of block.split('\n')) {
    const colon = line.indexOf(':')
    const name = colon < 0 ? line : line.slice(0, colon)
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '')
    if (name === '') fields.comment = value
    else if (name === 'data') data.push(value)
    else if (name in fields) fields[name] = value
  }
  return { ...fields, data: data.length > 0 ? data.join('\n') : undefined }
}
