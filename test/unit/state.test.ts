import { describe, expect, it } from 'vitest';
import { type ActiveSession, type SessionState, StateMachine, type StateName } from '../../src/session/state.ts';

const session = { generation: 1 } as ActiveSession;
const error = new Error('x');
const STATES: Readonly<Record<StateName, SessionState>> = {
  idle: { name: 'idle' },
  loading: { name: 'loading' },
  negotiating: { name: 'negotiating' },
  resuming: { name: 'resuming', session },
  ready: { name: 'ready', session },
  degraded: { name: 'degraded', session, reason: 'x' },
  lost: { name: 'lost', session, reason: 'x' },
  backoff: { name: 'backoff', session, reason: 'x' },
  authorizing: { name: 'authorizing', error },
  failed: { name: 'failed', error },
  closing: { name: 'closing' },
  closed: { name: 'closed' },
};
const NAMES = Object.keys(STATES) as StateName[];

/** A way to each state, and where it leads: the drawing in state.ts, written out. */
const WAYS: readonly [StateName, readonly StateName[], readonly StateName[]][] = [
  ['idle', [], ['loading', 'closing']],
  ['loading', ['loading'], ['resuming', 'negotiating', 'closing']],
  ['negotiating', ['loading', 'negotiating'], ['negotiating', 'resuming', 'ready', 'lost', 'failed', 'authorizing', 'closing']],
  ['resuming', ['loading', 'resuming'], ['ready', 'lost', 'closing']],
  ['ready', ['loading', 'resuming', 'ready'], ['degraded', 'lost', 'closing']],
  ['degraded', ['loading', 'resuming', 'ready', 'degraded'], ['ready', 'degraded', 'lost', 'closing']],
  ['lost', ['loading', 'resuming', 'lost'], ['negotiating', 'backoff', 'closing']],
  ['backoff', ['loading', 'resuming', 'lost', 'backoff'], ['negotiating', 'closing']],
  ['authorizing', ['loading', 'negotiating', 'authorizing'], ['loading', 'closing']],
  ['failed', ['loading', 'negotiating', 'failed'], ['loading', 'closing']],
  ['closing', ['closing'], ['closed']],
  ['closed', ['closing', 'closed'], ['idle']],
];

function machineIn(way: readonly StateName[]): { machine: StateMachine; told: string[] } {
  const told: string[] = [];
  const machine = new StateMachine((from, to) => told.push(`${from} to ${to}`));
  for (const name of way) expect(machine.enter(STATES[name])).toBe(true);
  told.length = 0;
  return { machine, told };
}

describe('the state machine', () => {
  it('is about every state that there is', () => {
    expect(WAYS.map(([name]) => name)).toEqual(NAMES);
  });

  it.each(WAYS)('leads from %s exactly where it should, and tells so once', (name, way, next) => {
    for (const to of NAMES) {
      const { machine, told } = machineIn(way);
      expect(machine.current.name).toBe(name);
      const before = machine.current;
      expect(machine.enter({ ...STATES[to] }), `${name} to ${to}`).toBe(next.includes(to));
      expect(machine.current).toEqual(next.includes(to) ? STATES[to] : before);
      expect(told).toEqual(next.includes(to) && to !== name ? [`${name} to ${to}`] : []);
    }
  });

  it.each(WAYS)('has a session for calls in resuming, ready and degraded alone: %s', (name, way) => {
    expect(machineIn(way).machine.session).toBe(['resuming', 'ready', 'degraded'].includes(name) ? session : undefined);
  });

  it('takes the new reason of a state that it is in already', () => {
    const { machine } = machineIn(['loading', 'resuming', 'ready', 'degraded']);
    machine.enter({ name: 'degraded', session, reason: 'another' });
    expect(machine.current).toEqual({ name: 'degraded', session, reason: 'another' });
  });
});
