import type { JSONRPCMessage, JSONRPCRequest } from '@modelcontextprotocol/sdk/types.js';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Correlator } from '../../src/session/correlator.ts';
import { clampHint } from '../../src/session/hints.ts';
import { sessionKey } from '../../src/session/key.ts';
import { parseRecord, serializeRecord, type SessionRecord } from '../../src/session/record.ts';
import { type ActiveSession, type SessionState, StateMachine, type StateName } from '../../src/session/state.ts';

const request = (id: number | string, params?: Record<string, unknown>): JSONRPCRequest => ({ jsonrpc: '2.0', id, method: 'tools/call', ...(params ? { params } : {}) });
const answer = (id: unknown): JSONRPCMessage => ({ jsonrpc: '2.0', id, result: {} }) as JSONRPCMessage;

describe('request ids', () => {
  it('start at random, far from those of the SDK and of other processes, and stay exact integers', () => {
    const starts = Array.from({ length: 1000 }, () => new Correlator().dispatch(new Correlator().open(request(0))).id as number);
    expect(new Set(starts).size).toBe(1000);
    expect(starts.every((id) => Number.isSafeInteger(id) && id > 0 && id < Number.MAX_SAFE_INTEGER - 2 ** 39)).toBe(true);
  });

  it('give each answer to its own call, under the id that the client knows', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uniqueArray(fc.integer({ min: 0, max: 1000 }), { minLength: 1, maxLength: 50 }), fc.infiniteStream(fc.nat()), async (ids, order) => {
        const correlator = new Correlator();
        const calls = ids.map((id) => correlator.open(request(id)));
        const wire = calls.map((call) => correlator.dispatch(call).id);
        for (const id of [...wire].sort(() => (order.next().value % 2) - 0.5)) expect(correlator.receive(answer(id))).toBeUndefined();
        expect((await Promise.all(calls.map((call) => call.settled))).map((each) => each?.id)).toEqual(ids);
      }),
    );
  });

  it('drop and count what is foreign, repeated, wrongly typed or for an attempt that was replaced', () => {
    const correlator = new Correlator();
    const call = correlator.open(request(0));
    const first = correlator.dispatch(call).id;
    const second = correlator.dispatch(call).id as number;
    expect(second).not.toBe(first);
    for (const id of [first, String(second), 0, null, undefined, {}]) expect(correlator.receive(answer(id))).toBeUndefined();
    expect(call.done).toBe(false);
    correlator.receive(answer(second));
    expect(call.done).toBe(true);
    correlator.receive(answer(second));
    expect(correlator.dropped).toBe(7);
  });

  it('go for progress tokens too, whatever the client\'s own token is', () => {
    for (const token of [0, 7, 'mine']) {
      const correlator = new Correlator();
      const sent = correlator.dispatch(correlator.open(request(0, { name: 'x', _meta: { progressToken: token, other: 1 } })));
      expect(sent.params?._meta).toEqual({ progressToken: sent.id, other: 1 });
      const progress = (progressToken: unknown) => ({ jsonrpc: '2.0', method: 'notifications/progress', params: { progressToken, progress: 1 } }) as JSONRPCMessage;
      expect(correlator.receive(progress(sent.id))).toEqual(progress(token));
      expect(correlator.receive(progress(token))).toBeUndefined();
      expect(correlator.receive(progress(12_345))).toBeUndefined();
    }
  });

  it('keep the progress of a task going after its call is answered', () => {
    const correlator = new Correlator();
    const { id } = correlator.dispatch(correlator.open(request(3, { _meta: { progressToken: 3 } })));
    correlator.receive({ jsonrpc: '2.0', id, result: { task: { taskId: 't' } } });
    const progress = { jsonrpc: '2.0' as const, method: 'notifications/progress', params: { progressToken: id, progress: 1 } };
    expect(correlator.receive(progress)).toMatchObject({ params: { progressToken: 3 } });
  });

  it('leave the server\'s own requests and notifications as they are', () => {
    const correlator = new Correlator();
    const asked: JSONRPCMessage = { jsonrpc: '2.0', id: 0, method: 'sampling/createMessage', params: {} };
    expect(correlator.receive(asked)).toBe(asked);
  });
});

describe('the state machine', () => {
  const session = { generation: 1 } as ActiveSession;
  const error = new Error('x');
  const states: SessionState[] = [
    { name: 'idle' },
    { name: 'loading' },
    { name: 'negotiating' },
    { name: 'resuming', session },
    { name: 'ready', session },
    { name: 'degraded', session, reason: 'x' },
    { name: 'lost', session, reason: 'x' },
    { name: 'authorizing', error },
    { name: 'failed', error },
    { name: 'closing' },
    { name: 'closed' },
  ];

  it('has a session exactly where calls have somewhere to go, closes from everywhere, and tells each change once', () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...states), { maxLength: 60 }), (moves) => {
        const told: [StateName, StateName][] = [];
        const machine = new StateMachine((from, to) => told.push([from, to]));
        for (const move of moves) {
          const before = machine.current;
          const entered = machine.enter(move);
          expect(machine.current).toBe(entered ? move : before);
          expect(machine.session !== undefined).toBe(['ready', 'degraded', 'resuming'].includes(machine.current.name));
        }
        for (const [from, to] of told) expect(from).not.toBe(to);
        expect(told.map(([from]) => from)).toEqual(['idle', ...told.map(([, to]) => to)].slice(0, told.length));
        const { name } = machine.current;
        if (name !== 'closing' && name !== 'closed') expect(machine.enter({ name: 'closing' })).toBe(true);
      }),
    );
  });

  it('ignores news that come after the end', () => {
    const machine = new StateMachine(() => {});
    machine.enter({ name: 'closing' });
    machine.enter({ name: 'closed' });
    for (const state of states.filter(({ name }) => name !== 'idle' && name !== 'closed')) expect(machine.enter(state)).toBe(false);
    expect(machine.enter({ name: 'idle' })).toBe(true);
  });
});

describe('the stored record', () => {
  const record: SessionRecord = {
    v: 1,
    id: 'abc',
    url: 'http://host/mcp',
    capabilities: {},
    initialized: { protocolVersion: '2025-11-25', capabilities: {}, serverInfo: { name: 's', version: '1' } },
    createdAt: 1,
    lastUsedAt: 2,
    expiresAt: null,
    subscriptions: ['test://one'],
  };

  it('comes back as it went in', () => {
    expect(parseRecord(serializeRecord(record))).toEqual(record);
  });

  it('is taken whole or refused with a TypeError, whatever became of its text', () => {
    const text = serializeRecord(record);
    fc.assert(
      fc.property(fc.nat(text.length - 1), fc.string({ maxLength: 3 }), fc.nat(3), (at, put, drop) => {
        const mutated = text.slice(0, at) + put + text.slice(at + drop);
        try {
          const read = parseRecord(mutated);
          expect(read.id).toMatch(/^[\x21-\x7e]+$/);
          expect(Number.isFinite(read.createdAt)).toBe(true);
        } catch (error) {
          expect(error).toBeInstanceOf(TypeError);
          expect((error as Error).message).not.toContain('abc');
        }
      }),
      { numRuns: 2000 },
    );
  });
});

describe('the key of a session', () => {
  const address = { url: 'https://host/mcp', query: '' };

  it('never meets that of another server, principal or name', async () => {
    const part = fc.string({ minLength: 1, maxLength: 6, unit: fc.constantFrom('a', '/', '%', '?', '#', '.', 'ü', ' ') });
    await fc.assert(
      fc.asyncProperty(fc.tuple(part, fc.option(part, { nil: undefined }), part), fc.tuple(part, fc.option(part, { nil: undefined }), part), async (a, b) => {
        const [one, two] = await Promise.all([a, b].map(([url, principal, name]) => sessionKey({ url, query: '' }, principal, name)));
        expect(one === two).toBe(JSON.stringify(a) === JSON.stringify(b));
      }),
    );
  });

  it('keeps tenants of one path apart by their query, without keeping the query', async () => {
    const one = await sessionKey({ ...address, query: '?key=secret-one' }, undefined, 'default');
    const two = await sessionKey({ ...address, query: '?key=secret-two' }, undefined, 'default');
    expect(one).not.toBe(two);
    expect(one).not.toContain('secret');
  });
});

it('G5 a hint is made sane, whatever a server says', () => {
  expect([0, -5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 32, 1000].map(clampHint)).toEqual([0, 0, 0, 300_000, 300_000, 1000]);
});
