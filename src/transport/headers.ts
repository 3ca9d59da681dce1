/**
 * Headers as lists, names and values by turns: written with the status in one go they cost a fraction of what setting each one does.
 */
import type { ServerResponse } from 'node:http'

export type HeaderList = readonly string[]

export const JSON_TYPE = 'application/json; charset=utf-8'

export function setHeaders(response: ServerResponse, headers: HeaderList): void {
  for (let index = 0; index < headers.length; index += 2) response.setHeader(headers[index] ?? '', headers[index + 1] ?? '')
}

/** Every answer to these addresses, refusals of whatever kind included, names what it varies by. */
const CHANGES = /^\/v1\/channels\/[^/?]+\/changes\/?(?:\?|$)/
export const VARYING = ['Vary', 'Prefer, Accept-Encoding']

export function setVary(url: string, response: ServerResponse): void {
  if (CHANGES.test(url)) setHeaders(response, VARYING)
}

export const NO_SNIFFING = ['X-Content-Type-Options', 'nosniff']

/** For any page, whatever its origin, without credentials; and what its script may read. */
export const ANY_ORIGIN = [
  'Access-Control-Allow-Origin', '*',
  'Access-Control-Expose-Headers', 'ETag, Poll-After-Ms, Poll-Interval, Poll-Reason, Preference-Applied, Retry-After, Age',
]
