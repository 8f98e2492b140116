import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Abort, nativeOf, onAbort } from '../../src/signals.ts';
import { Alarms } from '../../src/timers.ts';

describe('alarms', () => {
  let alarms: Alarms;
  beforeEach(() => {
    vi.useFakeTimers();
    alarms = new Alarms();
  });
  afterEach(() => vi.useRealTimers());

  it('ring when each is due, and not once they are stopped', () => {
    const rung: string[] = [];
    const since = performance.now();
    const note = (name: string) => () => rung.push(`${name} at ${Math.round(performance.now() - since)}`);
    alarms.after(100, note('a'));
    const stop = alarms.after(100, note('b'));
    vi.advanceTimersByTime(40);
    alarms.after(100, note('c'));
    alarms.after(20, note('d'));
    alarms.after(100, note('e'));
    stop();
    vi.advanceTimersByTime(1000);
    expect(rung).toEqual(['d at 60', 'a at 100', 'c at 140', 'e at 140']);
  });

  it('of one length have one timer, however many there are, and none when nobody waits', () => {
    const stops = Array.from({ length: 1000 }, () => alarms.after(60_000, () => {}));
    expect(vi.getTimerCount()).toBe(1);
    for (const stop of stops) stop();
    expect(vi.getTimerCount()).toBe(0);
    alarms.after(60_000, () => {});
    vi.advanceTimersByTime(60_000);
    expect(vi.getTimerCount()).toBe(0);
  });

  it('ring by the timers of a test that leaves the other clock alone', () => {
    vi.useRealTimers();
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const rung: string[] = [];
    for (const name of ['a', 'b']) alarms.after(60_000, () => rung.push(name));
    vi.advanceTimersByTime(90_000);
    expect(rung).toEqual(['a', 'b']);
  });

  it('may be set and stopped by one that rings', () => {
    const rung: string[] = [];
    let stop = (): void => {};
    alarms.after(100, () => {
      rung.push('first');
      stop();
      alarms.after(100, () => rung.push('third'));
    });
    stop = alarms.after(100, () => rung.push('second'));
    vi.advanceTimersByTime(150);
    expect(rung).toEqual(['first']);
    vi.advanceTimersByTime(100);
    expect(rung).toEqual(['first', 'third']);
  });
});

describe('a signal of our own', () => {
  it('tells its listeners once, those that were taken back by others not, and as a real signal too', () => {
    const abort = new Abort();
    const heard: string[] = [];
    const second = (): void => void heard.push('second');
    abort.addEventListener('abort', () => {
      heard.push('first');
      abort.removeEventListener('abort', second);
    });
    abort.addEventListener('abort', second);
    const release = onAbort(abort, () => heard.push('never'));
    onAbort(abort, () => heard.push('third'));
    release();
    const native = nativeOf(abort);
    native.addEventListener('abort', () => heard.push('native'));
    const reason = new Error('enough');
    abort.abort(reason);
    abort.abort(new Error('again'));
    expect(heard.sort()).toEqual(['first', 'native', 'third']);
    expect([abort.aborted, abort.reason, native.aborted, native.reason]).toEqual([true, reason, true, reason]);
    expect(() => abort.throwIfAborted()).toThrow(reason);
  });

  it('that has aborted already is a real signal that has', () => {
    const abort = new Abort();
    abort.abort('why');
    expect(nativeOf(abort)).toMatchObject({ aborted: true, reason: 'why' });
    const { signal } = new AbortController();
    expect(nativeOf(signal)).toBe(signal);
  });
});
