import type { JSONRPCMessage, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse, ProgressToken } from '@modelcontextprotocol/sdk/types.js';
import { afterEach, describe, expect, it, vi } from 'vitest';
import type { Link } from '../../src/links/link.ts';
import { type Answer, Correlator, PendingCall } from '../../src/session/correlator.ts';
import { Inbound } from '../../src/session/inbound.ts';
import type { ActiveSession } from '../../src/session/state.ts';
import { readToken, writeToken } from '../../src/session/token.ts';

const request = (id: number | string, params?: JSONRPCRequest['params']): JSONRPCRequest => ({ jsonrpc: '2.0', id, method: 'tools/call', ...(params ? { params } : {}) });
const answer = (id: unknown, result: Record<string, unknown> = {}): Answer => ({ jsonrpc: '2.0', id, result }) as Answer;
const progress = (progressToken?: unknown): JSONRPCNotification => ({ jsonrpc: '2.0', method: 'notifications/progress', params: { progressToken, progress: 1 } });
const withToken = (progressToken: ProgressToken): JSONRPCRequest['params'] => ({ _meta: { progressToken } });

describe('the first id', () => {
  afterEach(() => void vi.restoreAllMocks());

  const startOf = (high: number, low: number): unknown => {
    vi.spyOn(crypto, 'getRandomValues').mockImplementation((array) => {
      (array as unknown as Uint32Array).set([high, low]);
      return array;
    });
    const correlator = new Correlator();
    return correlator.dispatch(correlator.open(request(0))).id;
  };

  it('is drawn from the whole range of exact integers above 0, all of it but the room to count up', () => {
    const highest = Number.MAX_SAFE_INTEGER - 2 ** 40;
    expect(startOf(0, 0)).toBe(1);
    expect(startOf(2 ** 32 - 1, 2 ** 32 - 1)).toBeLessThanOrEqual(highest);
    expect(startOf(2 ** 32 - 1, 2 ** 32 - 1)).toBeGreaterThan(highest - 10);
    expect(startOf(2 ** 20, 0)).toBe(1 + Math.floor(highest / 2));
    expect(startOf(0, 2 ** 31)).toBe(1 + Math.floor(highest / 2 ** 22));
    // Of the high half 21 bits count.
    expect(startOf(2 ** 21, 0)).toBe(1);
  });
});

describe('a call on the wire', () => {
  it('has one new id for each time that it is sent, and is otherwise as the client made it', () => {
    const correlator = new Correlator(() => 100);
    const plain = request('a', { name: 'x', _meta: { other: 1 } });
    const call = correlator.open(plain);
    expect([call.wireId, call.sent]).toEqual([undefined, false]);
    expect(correlator.dispatch(call)).toEqual({ ...plain, id: 100 });
    expect(correlator.dispatch(call)).toEqual({ ...plain, id: 101 });
    expect(correlator.dispatch(correlator.open(request('b')))).toEqual({ ...request('b'), id: 102 });
    expect(call.wireId).toBe(101);
    const token = correlator.dispatch(correlator.open(request('c', { name: 'x', _meta: { progressToken: 'mine', other: 1 } })));
    expect(token.params).toEqual({ name: 'x', _meta: { progressToken: 103, other: 1 } });
  });

  it('never has the id under which another one is waited for', () => {
    const correlator = new Correlator(() => 5);
    for (const id of [5, 6]) expect(correlator.join(correlator.open(request(id)), id)).toBe(true);
    expect(correlator.dispatch(correlator.open(request(0))).id).toBe(7);
  });

  it('can be waited for under its old id once, and gets its answer', async () => {
    const correlator = new Correlator(() => 5);
    const call = correlator.open(request('x'));
    expect(correlator.join(call, 77)).toBe(true);
    expect(correlator.join(correlator.open(request('y')), 77)).toBe(false);
    correlator.receive(answer(77, { a: 1 }));
    expect(await call.settled).toEqual(answer('x', { a: 1 }));
  });

  it('is known by the id of the client until it is answered or closed', () => {
    const correlator = new Correlator(() => 5);
    expect([correlator.isIdle, correlator.pending, correlator.find('x')]).toEqual([true, [], undefined]);
    const [one, two] = [correlator.open(request('x')), correlator.open(request('y'))];
    expect([correlator.isIdle, correlator.pending, correlator.find('x')]).toEqual([false, [one, two], one]);
    correlator.dispatch(one);
    correlator.receive(answer(5));
    expect([correlator.pending, correlator.find('x')]).toEqual([[two], undefined]);
    correlator.close(two);
    expect(correlator.isIdle).toBe(true);
  });

  it('does not take a later one of the same client id with it', () => {
    const correlator = new Correlator(() => 5);
    const [first, second] = [correlator.open(request(0)), correlator.open(request(0))];
    correlator.close(first);
    expect(correlator.find(0)).toBe(second);
  });

  it('gets nothing any more once it is closed or withdrawn', () => {
    const correlator = new Correlator(() => 5);
    const [closed, withdrawn] = [correlator.open(request(0)), correlator.open(request(1))];
    for (const call of [closed, withdrawn]) correlator.dispatch(call);
    withdrawn.sent = true;
    correlator.close(closed);
    correlator.withdraw(withdrawn);
    expect([withdrawn.wireId, withdrawn.sent]).toEqual([undefined, false]);
    for (const id of [5, 6]) expect(correlator.receive(answer(id))).toBeUndefined();
    expect([closed.done, withdrawn.done, correlator.dropped]).toEqual([false, false, 2]);
    expect(correlator.find(1)).toBe(withdrawn);
  });

  it('is not answered by an id of another type, however much it looks like its own', () => {
    const correlator = new Correlator(() => 5);
    const call = correlator.open(request(0));
    correlator.dispatch(call);
    for (const id of ['5', '0x5', ' 5 ', [5], true, null, undefined]) expect(correlator.receive(answer(id))).toBeUndefined();
    expect([call.done, correlator.dropped]).toEqual([false, 7]);
  });
});

describe('progress', () => {
  it('reaches the token of its own call while that lasts, and is otherwise dropped and counted', () => {
    const correlator = new Correlator(() => 5);
    for (const params of [withToken('mine'), undefined, { _meta: {} }, {}]) correlator.dispatch(correlator.open(request(String(params?.['_meta'] !== undefined), params)));
    expect(correlator.receive(progress(5))).toEqual(progress('mine'));
    for (const token of [6, 7, 8, 9, '5', undefined]) expect(correlator.receive(progress(token))).toBeUndefined();
    expect(correlator.receive({ jsonrpc: '2.0', method: 'notifications/progress' })).toBeUndefined();
    expect(correlator.dropped).toBe(7);
    correlator.receive(answer(5));
    expect(correlator.receive(progress(5))).toBeUndefined();
  });

  it('goes on after the answer for tasks alone, and only where it was asked for', () => {
    const correlator = new Correlator(() => 5);
    for (const params of [withToken(1), withToken(2), undefined, {}, { _meta: {} }]) correlator.dispatch(correlator.open(request(0, params)));
    correlator.receive({ jsonrpc: '2.0', id: 5, error: { code: 1, message: 'x' } });
    correlator.receive(answer(6, { tasks: {} }));
    for (const id of [7, 8, 9]) correlator.receive(answer(id, { task: {} }));
    for (const id of [5, 6, 7, 8, 9]) expect(correlator.receive(progress(id))).toBeUndefined();
  });

  it('is kept for the last 1,000 tasks', () => {
    const correlator = new Correlator(() => 5);
    for (let i = 0; i < 1001; i++) {
      correlator.dispatch(correlator.open(request(i, withToken(i))));
      correlator.receive(answer(5 + i, { task: {} }));
    }
    expect(correlator.receive(progress(5))).toBeUndefined();
    expect(correlator.receive(progress(6))).toEqual(progress(1));
    expect(correlator.receive(progress(1005))).toEqual(progress(1000));
  });

  it('is the only notification that is looked at', () => {
    const correlator = new Correlator(() => 5);
    const other = { ...progress(5), method: 'notifications/message' };
    expect(correlator.receive(other)).toBe(other);
    expect(correlator.dropped).toBe(0);
  });
});

describe('a pending call', () => {
  it('settles once, by what comes first, and tells its one listener', async () => {
    const ends: readonly [string, (call: PendingCall) => void][] = [
      ['answer', (call) => call.answer(answer(1))],
      ['drop', (call) => call.drop()],
      ['fail', (call) => call.fail(new Error('x'))],
    ];
    for (const [name, end] of ends) {
      const heard: unknown[] = [];
      const call = new PendingCall(request(1), (each) => heard.push(each));
      let told = 0;
      call.onDone(() => told++);
      expect([call.done, told]).toEqual([false, 0]);
      end(call);
      for (const [, again] of ends) again(call);
      expect([call.done, told]).toEqual([true, 1]);
      expect(heard).toEqual(name === 'answer' ? [answer(1)] : []);
      const settled = await call.settled.catch((error: unknown) => error);
      expect(settled).toEqual({ answer: answer(1), drop: undefined, fail: new Error('x') }[name]);
    }
  });

  it('tells who listens late at once, and nobody where nobody listens', () => {
    const call = new PendingCall(request(1));
    call.onDone(() => expect.unreachable('it was replaced'));
    call.onDone(undefined);
    call.drop();
    call.onDone(undefined);
    let told = 0;
    call.onDone(() => told++);
    expect(told).toBe(1);
  });

  it('tells how far its stream has moved until it is answered, and never after', () => {
    const call = new PendingCall(request(1));
    call.moved('nobody hears it');
    const heard: string[] = [];
    call.onCursor = (id) => heard.push(id);
    call.moved('a');
    call.answer(answer(1));
    call.moved('b');
    expect(heard).toEqual(['a']);
  });

  it('G11 that fails with nobody waiting is no unhandled rejection', async () => {
    const unhandled: unknown[] = [];
    const note = (reason: unknown): unknown => unhandled.push(reason);
    process.on('unhandledRejection', note);
    try {
      new PendingCall(request(1)).fail(new Error('x'));
      // They are told after the microtasks.
      await new Promise((resolve) => setImmediate(resolve));
      expect(unhandled).toEqual([]);
    } finally {
      process.off('unhandledRejection', note);
    }
  });
});

describe('the server\'s own requests', () => {
  const [one, two] = [{ kind: 'http' } as Link, { kind: 'http' } as Link];
  const ask = (id: number | string): JSONRPCRequest => ({ jsonrpc: '2.0', id, method: 'roots/list', params: { x: id } });
  const reply = (id: unknown): JSONRPCResponse => ({ jsonrpc: '2.0', id, result: { y: 1 } }) as JSONRPCResponse;
  const cancelled = (requestId?: unknown): JSONRPCMessage => ({ jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId, reason: 'r' } });

  /** Where an answer went, and as what. */
  const sent = async (inbound: Inbound, id: unknown) => inbound.answer(reply(id), async (link, message) => [link, message]);

  it('have numbers of ours, from 1 on, and each answer goes back to where its question came from, once', async () => {
    const inbound = new Inbound();
    expect(inbound.receive(ask(0), one)).toEqual({ ...ask(0), id: 1 });
    expect(inbound.receive(ask(0), two)).toEqual({ ...ask(0), id: 2 });
    expect(inbound.receive(ask('q'), two)).toEqual({ ...ask('q'), id: 3 });
    const answered = await sent(inbound, 2);
    expect(answered?.[0]).toBe(two);
    expect(answered?.[1]).toEqual(reply(0));
    expect(await sent(inbound, 2)).toBeUndefined();
    expect((await sent(inbound, 1))?.[0]).toBe(one);
    expect((await sent(inbound, 3))?.[1]).toEqual(reply('q'));
  });

  it('are answered to nobody where the id is foreign or absent, or all was forgotten', async () => {
    const inbound = new Inbound();
    inbound.receive(ask(0), one);
    for (const id of [0, '1', 2, undefined, null]) expect(await sent(inbound, id)).toBeUndefined();
    inbound.clear();
    expect(await sent(inbound, 1)).toBeUndefined();
  });

  it('are cancelled under our number, by their own link, and while nobody has answered', () => {
    const inbound = new Inbound();
    for (const [id, link] of [[7, one], [8, one], [8, two]] as const) inbound.receive(ask(id), link);
    expect(inbound.receive(cancelled(8), one)).toEqual(cancelled(2));
    expect(inbound.receive(cancelled(8), two)).toEqual(cancelled(3));
    expect(inbound.receive(cancelled(7), two)).toBeUndefined();
    expect(inbound.receive(cancelled('8'), one)).toBeUndefined();
    expect(inbound.receive({ jsonrpc: '2.0', method: 'notifications/cancelled' }, one)).toBeUndefined();
    void sent(inbound, 2);
    expect(inbound.receive(cancelled(8), one)).toBeUndefined();
  });

  it('are dropped, and counted, while 256 of them wait for their answer, or for it to arrive', async () => {
    const inbound = new Inbound();
    for (let i = 0; i < 256; i++) expect(inbound.receive(ask(i), one)).toEqual({ ...ask(i), id: i + 1 });
    expect(inbound.receive(ask(256), two)).toBeUndefined();
    expect(inbound.dropped).toBe(1);
    let arrive = (): void => {};
    const arriving = inbound.answer(reply(1), () => new Promise<void>((resolve) => (arrive = resolve)));
    expect(inbound.receive(ask(257), two)).toBeUndefined();
    arrive();
    await arriving;
    expect(inbound.receive(ask(258), two)).toEqual({ ...ask(258), id: 257 });
    await expect(inbound.answer(reply(2), () => Promise.reject(new Error('no connection')))).rejects.toThrow('no connection');
    expect(inbound.receive(ask(259), two)).toEqual({ ...ask(259), id: 258 });
    expect(inbound.dropped).toBe(2);
  });

  it('leave everything else as it is', () => {
    const inbound = new Inbound();
    for (const message of [progress(1), { ...cancelled(1), method: 'notifications/message' }, reply(1)] as JSONRPCMessage[]) expect(inbound.receive(message, one)).toBe(message);
  });
});

describe('a resumption token', () => {
  const session = (id: string | undefined, createdAt = 1234): ActiveSession => ({ id, createdAt }) as ActiveSession;

  it('names session, call and event, and comes back as it went in', () => {
    for (const event of ['e', '%', '%s', '%25', 'a:b:c', 'line\nline', '100%s of it', 'é']) {
      const token = writeToken(session('secret-id'), 77, event);
      const read = readToken(token);
      expect([read.createdAt, read.wireId, read.cursorOn(session('secret-id'))]).toEqual([1234, 77, event]);
    }
    expect(writeToken(session('secret-id'), 77, 'e%')).toBe('mcp-reprise:1:1234:77:e%25');
  });

  it('G7 never holds the session id, though the event ids are made of it', () => {
    const token = writeToken(session('secret-id'), 77, 'secret-id_1_secret-id%');
    expect(token).toBe('mcp-reprise:1:1234:77:%s_1_%s%25');
    expect(readToken(token).cursorOn(session('secret-id'))).toBe('secret-id_1_secret-id%');
  });

  it('of a session without an id has none in it', () => {
    const read = readToken(writeToken(session(undefined), 1, 'a%sb'));
    expect(read.cursorOn(session(undefined))).toBe('a%sb');
    expect(readToken('mcp-reprise:1:1:1:a%sb').cursorOn(session(undefined))).toBe('ab');
  });

  it.each([
    undefined,
    null,
    42,
    {},
    '',
    'e',
    'mcp-reprise:1:1:1:',
    'mcp-reprise:2:1:1:e',
    'xmcp-reprise:1:1:1:e',
    'mcp-reprise:1:x:1:e',
    'mcp-reprise:1:1:x:e',
    'mcp-reprise:1::1:e',
    'mcp-reprise:1:1::e',
    `mcp-reprise:1:1:${Number.MAX_SAFE_INTEGER + 1}:e`,
    `mcp-reprise:1:1:1:${'e'.repeat(4097)}`,
    `mcp-reprise:1:${'1'.repeat(17)}:1:e`,
    ['mcp-reprise:1:1:1:e'],
  ])('that is none of ours is a TypeError: %j', (token) => {
    expect(() => readToken(token)).toThrow(new TypeError('resumptionToken must be one that mcp-reprise gave to onresumptiontoken'));
  });

  it('may have an event id of 4,096 characters and any id that is an exact integer', () => {
    const read = readToken(`mcp-reprise:1:1:${Number.MAX_SAFE_INTEGER}:${'e'.repeat(4096)}`);
    expect([read.wireId, read.cursorOn(session('x'))]).toEqual([Number.MAX_SAFE_INTEGER, 'e'.repeat(4096)]);
  });
});
