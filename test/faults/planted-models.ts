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
    name: 'a handshake opens its session although that was lost meanwhile',
    file: 'session/lifecycle.ts',
    edits: [['if (this.state === state) this.#open(session);', 'this.#open(session);']],
    caughtBy: race('update.. against connect.. and a loss'),
  },
];
