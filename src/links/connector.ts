import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import { commandConnector } from '#platform';
import { type HttpOptions, httpConnector } from './http-connector.ts';
import type { Connector } from './link.ts';
import { sdkLink } from './sdk-link.ts';
import type { CommandTarget } from './target.ts';

/**
 * What makes the links to a target.
 *
 * @throws TypeError when the target makes no sense: another protocol than http and https, or credentials in the URL
 */
export function connectorFor(target: URL | string | CommandTarget | (() => Transport), options: HttpOptions): Connector {
  if (typeof target === 'function') return sdkLink(target);
  if (target instanceof URL || typeof target === 'string') return httpConnector(checkUrl(target), options);
  if (typeof target === 'object' && target !== null && typeof target.command === 'string' && target.command !== '') return commandConnector(target);
  throw new TypeError('the target must be a URL, a { command }, or a function that makes an SDK transport');
}

function checkUrl(target: URL | string): URL {
  // The text may hold a secret in its query, so no error repeats it.
  if (!URL.canParse(target)) throw new TypeError('the target is not a URL (http://host/path)');
  const url = new URL(target);
  if (url.protocol !== 'http:' && url.protocol !== 'https:') throw new TypeError(`the target must be an http or https URL, not "${url.protocol}" (is http:// missing?)`);
  if (url.username || url.password) throw new TypeError('the target must not carry a user name or password; give an Authorization header in `headers`');
  url.hash = '';
  return url;
}
