import { createHash } from 'node:crypto';

/** What runs on the server, each as one step that nobody can come between. Plain Lua 5.1 for Redis 5 and later, and Valkey. */
export interface Script {
  readonly text: string;
  /** What the server calls it by, once it has seen the text. */
  readonly sha: string;
}

function script(text: string): Script {
  return { text, sha: createHash('sha1').update(text).digest('hex') };
}

/**
 * For what must not happen later: a client sends what has waited for its connection, and a server reads what it was sent while it hung,
 * long after the caller was told that it failed. So each command carries its last moment, by the server's own clock (ARGV[1], ms).
 */
const IN_TIME = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if now >= tonumber(ARGV[1]) then return {'late', now} end
`;

/**
 * Writes (or, without an entry, removes) a value, if the one that is there is the expected one. An entry begins with its revision.
 *
 * KEYS: the value[, a note that this very command was done]. ARGV: last moment, 'any' | 'none' | 'is' .. revision, ttl (0: none)[, entry].
 *
 * The note is for a client that sends a command again when its connection was lost. Done twice, it would undo what others wrote in
 * between, or find its own revision overwritten and tell of a conflict although it was written. After its last moment it is not needed.
 */
export const CHANGE = script(`${IN_TIME}
if KEYS[2] and redis.call('EXISTS', KEYS[2]) == 1 then return {'done', now} end
local there = redis.call('GETRANGE', KEYS[1], 0, 31)
local is = 'none'
if there ~= '' then is = 'is' .. there end
if ARGV[2] ~= 'any' and ARGV[2] ~= is then return {'conflict', now, there} end
if not ARGV[4] then
  if redis.call('DEL', KEYS[1]) == 0 then return {'absent', now} end
elseif ARGV[3] == '0' then
  redis.call('SET', KEYS[1], ARGV[4])
else
  redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[3])
end
if KEYS[2] then redis.call('SET', KEYS[2], '', 'PX', ARGV[1] - now) end
return {'done', now}
`);

/**
 * Takes a lock, if nobody has it. Done twice with the same token it is still one holder with one fence.
 *
 * KEYS: the lock, the counter of fences. ARGV: last moment, token (32 characters), ttl.
 *
 * The counter never falls behind the clock (in µs, below 2^53 until 2255), so that fences go on rising where a server lost it:
 * by a restart without persistence, or a replica that took over too early.
 */
export const ACQUIRE = script(`${IN_TIME}
local holder = redis.call('GET', KEYS[1])
if not holder then
  local fence = math.max(tonumber(redis.call('GET', KEYS[2]) or 0) + 1, time[1] * 1000000 + time[2])
  local text = string.format('%.0f', fence)
  redis.call('SET', KEYS[2], text)
  holder = ARGV[2] .. text
  redis.call('SET', KEYS[1], holder, 'PX', ARGV[3])
end
if string.sub(holder, 1, 32) ~= ARGV[2] then return {'held', now, redis.call('PTTL', KEYS[1])} end
return {'done', now, string.sub(holder, 33)}
`);

/** Makes a lock last for its ttl from now on. KEYS: the lock. ARGV: token, ttl. Replies 0 where it is no longer the token's. */
export const RENEW = script(`
if redis.call('GETRANGE', KEYS[1], 0, 31) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
`);

/** Lets go of a lock. KEYS: the lock. ARGV: token. */
export const RELEASE = script(`
if redis.call('GETRANGE', KEYS[1], 0, 31) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
`);
