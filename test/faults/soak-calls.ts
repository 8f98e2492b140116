import { getEventListeners } from 'node:events';
import type { CallOptions, CallRecord, ResilientClient } from '../../src/index.ts';
import { OutcomeUnknownError, RepriseError, UnreachableError } from '../../src/index.ts';
import { EmptyResultSchema } from '@modelcontextprotocol/sdk/types.js';
import type { LoopLag } from './loop-lag.ts';
import type { CallPlan, ClientPlan } from './plan.ts';

/** No promise is later than this after its deadline, in ms. */
const GRACE = 250;

/** What became of a call: as the library says it, and `error` for an error that the server answered. */
export type Outcome = 'answered' | 'error' | 'not-sent' | 'refused' | 'unknown';

export interface Settled {
  readonly nonce: number;
  readonly outcome: Outcome;
  readonly attempts: number;
  /** From the call to its end, in ms. */
  readonly took: number;
  readonly code: string;
  /** Which execution answered it. */
  readonly run: string;
  /** It is durable, and was made before. */
  readonly again: boolean;
  /** This process has been warned of its store. */
  readonly warned: boolean;
}

export interface CallsHost {
  readonly seed: number;
  readonly lag: LoopLag;
  /** Whether there was a warning of the store. */
  readonly warned: boolean;
  settled(settled: Settled): void;
  violation(what: string, nonce: number, more?: unknown): void;
}

/** How a call was made: when, on the clock of `performance.now()`, and how long it may take, in ms. */
interface Made {
  readonly from: number;
  readonly bound: number;
  readonly again?: boolean;
  readonly givenUp?: boolean;
  readonly inBatch?: boolean;
}

type Request = Parameters<ResilientClient['batch']>[0][number];

/** Makes the calls of one client and holds each answer and error against what was promised. */
export class SoakCalls {
  readonly #client: ResilientClient;
  readonly #plan: ClientPlan;
  readonly #host: CallsHost;
  readonly #records = new Map<number, CallRecord>();
  /** Lives as long as the client: what is left on it is left for good. */
  readonly #longLived = new AbortController();
  /** The client is closed, or about to be. */
  closing = false;

  constructor(client: ResilientClient, plan: ClientPlan, host: CallsHost) {
    this.#client = client;
    this.#plan = plan;
    this.#host = host;
    client.events.on('call', (record) => {
      const params = record.params as { arguments?: { nonce?: number }; _meta?: { nonce?: number } } | undefined;
      const nonce = params?.arguments?.nonce ?? params?._meta?.nonce;
      if (nonce !== undefined) this.#records.set(nonce, record);
    });
  }

  get listeners(): number {
    return getEventListeners(this.#longLived.signal, 'abort').length;
  }

  /** Makes a call, and a durable one twice where its plan says so. */
  async make(plan: CallPlan): Promise<Outcome> {
    const outcome = await this.once(plan);
    if (outcome === 'answered' && plan.kind === 'durable' && plan.twice && !this.closing) await this.once(plan, true);
    return outcome;
  }

  /** @param again - it was made before */
  async once(plan: CallPlan, again = false): Promise<Outcome> {
    const { kind, nonce, timeout } = plan;
    const { method, params, options } = this.#request(plan);
    const giveUp = new AbortController();
    const timer = kind === 'aborted' ? setTimeout(() => giveUp.abort(new Error('given up')), plan.abortAfter) : undefined;
    const signal = kind === 'aborted' ? giveUp.signal : nonce % 2 === 0 ? this.#longLived.signal : undefined;
    const from = performance.now();
    const bound = options.maxTotalTimeout ?? timeout;
    try {
      const callOptions: CallOptions = { ...options, ...(signal ? { signal } : {}) };
      const call =
        method === 'tools/call'
          ? this.#client.callTool(params as { name: string }, undefined, callOptions)
          : method === 'tools/list'
            ? this.#client.listTools(params, callOptions)
            : this.#client.request({ method, params }, EmptyResultSchema, callOptions);
      return this.#answered(plan, await call, { from, bound, again });
    } catch (error) {
      return this.#failed(plan, error, { from, bound, again, givenUp: giveUp.signal.aborted });
    } finally {
      clearTimeout(timer);
      if (getEventListeners(giveUp.signal, 'abort').length > 0) this.#host.violation('a listener is left on the signal of a settled call', nonce);
    }
  }

  /** Makes calls as one batch, whose time is that of the slowest. */
  async batch(plans: readonly CallPlan[], wire: 'array' | 'single'): Promise<void> {
    const timeout = Math.max(...plans.map((plan) => plan.timeout));
    const from = performance.now();
    const requests = plans.map((plan) => this.#request(plan) as Request);
    const results = await this.#client.batch(requests, { timeout, wire, signal: this.#longLived.signal }).catch((error: unknown) => plans.map(() => ({ status: 'rejected' as const, reason: error })));
    for (const [i, plan] of plans.entries()) {
      const result = results[i] as PromiseSettledResult<unknown>;
      if (result.status === 'fulfilled') this.#answered(plan, result.value, { from, bound: timeout });
      else this.#failed(plan, result.reason, { from, bound: timeout, inBatch: true });
    }
  }

  #request(plan: CallPlan): { method: 'tools/call' | 'tools/list' | 'ping'; params: Record<string, unknown>; options: CallOptions } {
    const { kind, nonce, timeout, ms, steps, note } = plan;
    if (kind === 'list' || kind === 'ping') return { method: kind === 'list' ? 'tools/list' : 'ping', params: { _meta: { nonce } }, options: { timeout, cache: false } };
    const params = { name: kind === 'bad' ? 'nothing' : 'effect', arguments: { nonce, ms, steps, note } };
    const onprogress = ({ message }: { message?: string | undefined }): void => {
      if (message !== String(nonce)) this.#host.violation(`it heard of the progress of ${message}`, nonce);
    };
    const options: CallOptions = {
      timeout,
      ...(kind === 'safe' ? { safe: true } : {}),
      ...(kind === 'durable' ? { callId: `${this.#host.seed}-${nonce}` } : {}),
      ...(kind === 'progress' ? { onprogress, maxTotalTimeout: 2 * timeout } : {}),
    };
    return { method: 'tools/call', params, options };
  }

  #answered(plan: CallPlan, result: unknown, made: Made): Outcome {
    const { kind, nonce } = plan;
    let run = '';
    if (kind === 'list') {
      if ((result as { tools?: { name?: string }[] }).tools?.[0]?.name !== 'effect') this.#host.violation('it got the answer of another', nonce, result);
    } else if (kind !== 'ping') {
      const [, own, which] = /^done:(\d+):(\w+):✓$/.exec((result as { content?: { text?: string }[] }).content?.[0]?.text ?? '') ?? [];
      if (own !== String(nonce) || which === undefined) this.#host.violation('it got the answer of another', nonce, result);
      run = which ?? '';
    }
    return this.#settle(plan, 'answered', made, { run, code: '' });
  }

  #failed(plan: CallPlan, error: unknown, made: Made): Outcome {
    const { from, givenUp = false, inBatch = false } = made;
    const { nonce, kind } = plan;
    const { code, message } = (error ?? {}) as { code?: unknown; message?: string };
    if (givenUp && message === 'given up') {
      // What became of it says the history.
      const { outcome = 'not-sent' } = this.#records.get(nonce) ?? {};
      return this.#settle(plan, outcome, { ...made, bound: plan.abortAfter }, { run: '', code: 'GIVEN_UP' });
    }
    const isServers = (error as Error | undefined)?.name === 'McpError';
    if (!(error instanceof RepriseError) && !isServers) this.#host.violation(`it failed by an error of no known kind: ${(error as Error | undefined)?.stack}`, nonce);
    const outcome = error instanceof RepriseError ? (error.outcome ?? 'not-sent') : code === -32602 ? 'refused' : 'error';
    const isSafe = kind === 'safe' || kind === 'list' || kind === 'ping';
    const hadTime = !inBatch && this.#plan.budget === false && this.#plan.replays && !this.closing && performance.now() - from < plan.timeout - 50;
    if (hadTime && mayBeSentAgain(error, isSafe)) this.#host.violation(`it may be sent again, and was given up before its deadline: ${(error as Error).message}`, nonce);
    return this.#settle(plan, outcome, made, { run: '', code: String(code), text: message ?? '' });
  }

  #settle(plan: CallPlan, outcome: Outcome, { from, bound, again = false }: Made, { run, code, text }: { run: string; code: string; text?: string }): Outcome {
    const { nonce } = plan;
    const now = performance.now();
    const late = now - from - bound;
    const lag = late > GRACE ? this.#host.lag.between(from + bound, now) : 0;
    if (late - lag > GRACE) this.#host.violation(`it was settled ${Math.round(late)} ms after its deadline, ${Math.round(lag)} of them because the event loop stood`, nonce, { outcome, code, text });
    const record = this.#records.get(nonce);
    this.#records.delete(nonce);
    if (record && record.outcome !== (outcome === 'error' ? 'answered' : outcome)) this.#host.violation(`its history says ${record.outcome}, and its error ${outcome}`, nonce, { record, text });
    this.#host.settled({ nonce, outcome, attempts: record?.attempts ?? 0, took: Math.round(now - from), code, run, again, warned: this.#host.warned });
    return outcome;
  }
}

/** An error by which no call may end as long as it has time: nobody was there, or, where it is safe, nobody knows what became of it. */
function mayBeSentAgain(error: unknown, isSafe: boolean): boolean {
  if (error instanceof UnreachableError) return !error.permanent && error.retryAfter === undefined;
  return isSafe && error instanceof OutcomeUnknownError && error.retryAfter === undefined && !(error.cause instanceof RepriseError);
}
