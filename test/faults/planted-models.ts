import type { Catch, PlantedBug } from './planted-bugs.ts';

const race = (named: string): Catch => ({ files: ['test/model/races.test.ts'], named });
const model = (named: string): Catch => ({ files: ['test/model/model.test.ts'], named });
const HOLDS = model('clients with a shared store that holds');

/** Caught by the models of clients, stores and servers (test/model): what happens when, in every order that there is. */
export const RACES: readonly PlantedBug[] = [
  {
    name: 'ids are counted from the same start in every process',
    file: 'session/correlator.ts',
    edits: [['return 1 + Math.floor(fraction * (Number.MAX_SAFE_INTEGER - ROOM));', 'return 1 + Math.floor((fraction * (Number.MAX_SAFE_INTEGER - ROOM)) / Number.MAX_SAFE_INTEGER);']],
    caughtBy: HOLDS,
  },
  {
    name: 'a session is written over whatever is there',
    file: 'session/keeper.ts',
    edits: [['await this.#shelf.set(claimed, there?.revision ?? null);\n      const isOver', 'await this.#shelf.set(claimed, (await this.#shelf.get())?.revision ?? null);\n      const isOver']],
    caughtBy: race('two handshakes, when the turn to make one is taken over'),
  },
  {
    name: 'each call that finds its session lost makes a new one, in its own time',
    file: 'session/lifecycle.ts',
    edits: [["if (this.#renewal) return this.#renewal;\n        if (state.session) return state.session;", "if (this.#renewal) return this.#negotiator.successor(this.#params as Params, this.#scope.signal);\n        if (state.session) return state.session;"]],
    caughtBy: race('calls that find one lost session, without a store'),
  },
  {
    name: 'the turn to replace a lost session is not waited for',
    file: 'session/negotiator.ts',
    edits: [['const turn = await this.#takeTurn(scope);\n    try {', 'const turn = await Promise.resolve<Lock | undefined>(undefined);\n    try {']],
    caughtBy: race('two clients that replace one lost session'),
  },
  {
    name: 'a handshake opens its session although that was lost meanwhile',
    file: 'session/lifecycle.ts',
    edits: [['if (this.state === state) this.#open(session);', 'this.#open(session);']],
    caughtBy: race('update.. against connect.. and a loss'),
  },
  {
    name: 'an update in the middle of a handshake is taken',
    file: 'session/lifecycle.ts',
    edits: [["if (!this.#connected) {", "if (!this.#connected && !this.#renewal && !('session' in this.state)) {"]],
    caughtBy: race('update.. against connect.. and a loss'),
  },
  {
    name: 'a call of which nothing is known is sent again, safe or not',
    file: 'calls/retry.ts',
    edits: [['          safe,\n', '          safe: safe || true,\n']],
    caughtBy: HOLDS,
  },
  {
    name: 'close() ends no handshake that is under way',
    file: 'session/lifecycle.ts',
    edits: [["this.#scope.abort(new ClosedError('The client was closed during the handshake.', { outcome: 'not-sent' }));", "void ClosedError;"]],
    caughtBy: race('reset against close'),
  },
  {
    name: 'close() does not wait for what is still to be written',
    file: 'session/lifecycle.ts',
    edits: [['await this.#negotiator.keeper?.flush();\n      ending', 'void this.#negotiator.keeper?.flush();\n      ending']],
    caughtBy: HOLDS,
  },
  {
    name: 'the timer that notes the use of a session outlives close(), in a model',
    file: 'session/lifecycle.ts',
    edits: [['this.#stopProving();\n    this.#stopBeat();\n    const quiet', 'this.#stopProving();\n    const quiet']],
    caughtBy: HOLDS,
  },
  {
    name: 'whoever wants to listen does, whoever else listens',
    file: 'session/lifecycle.ts',
    edits: [["this.#negotiator.keeper?.lock('stream', signal) : undefined)", 'signal && { fence: 0, lost: new AbortController().signal, release: async () => undefined } : undefined)']],
    caughtBy: race('hand-over of the notification stream'),
  },
  {
    name: 'whoever listens next does not go on from the last event',
    file: 'session/listener.ts',
    edits: [['const stored = session.resumed || lock ? (await this.#host.stored(session))?.cursor : undefined;', 'const stored = undefined;'], ['let first = !session.resumed;', 'const first = true;'], ['if (performance.now() - asked > WAITED) first = false;\n', 'if (asked > WAITED) void first;\n'], ['          first = false;\n          lock ??=', '          lock ??=']],
    caughtBy: race('hand-over of the notification stream'),
  },
  {
    name: 'of two that make a durable call at once both send it',
    file: 'calls/journal.ts',
    edits: [['store.set(key, text, expected)', 'store.set(key, text, expected ?? undefined)']],
    caughtBy: race('a durable call that two make at once'),
  },
  {
    name: 'a call leaves its listener on the signal of its caller',
    file: 'signals.ts',
    edits: [['if (this.#tasks.delete(task) && this.#tasks.size === 0) this.#end();', 'this.#tasks.delete(task);']],
    caughtBy: race('abort against answer'),
  },
  {
    name: 'whoever listens without its turn never asks for it again',
    file: 'session/listener.ts',
    edits: [['lock ??= await this.#lateTurn(session, signal);', 'if (!lock) await firstAbort([signal]);']],
    caughtBy: race('a stream without its turn'),
  },
  {
    name: 'connect() has its time after that of the close() before',
    file: 'client.ts',
    edits: [['timeout: Math.max(1, Math.ceil(limit.by - performance.now())), ', '']],
    caughtBy: race('connect.. against close.. and a store that says nothing'),
  },
  {
    name: 'close() does not wait for the last word of a durable call',
    file: 'calls/calls.ts',
    edits: [['await Promise.all(this.#writing);', '']],
    caughtBy: race('close.. against the last word of a durable call'),
  },
  {
    name: 'a session that is forgotten between the halves of its handshake is a refused one',
    file: 'session/negotiator.ts',
    edits: [["if (ending.type === 'refused' && ending.failure.verdict === 'session-lost') throw errorOf(ending, 'notifications/initialized');", 'void errorOf;']],
    caughtBy: race('a renewal against a server that forgets again'),
  },
  {
    name: 'a subscription that breaks off on the next session is given up',
    file: 'session/negotiator.ts',
    edits: [['if (!broke(outcome) || tries >= MOST_REPEATS || performance', 'if (!broke(outcome) || tries >= MOST_REPEATS - 3 || performance']],
    caughtBy: race('a subscription that is to hold on the next session'),
  },
];
