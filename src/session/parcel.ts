import type { Ending } from '../links/link.ts';
import type { PendingCall } from './correlator.ts';
import type { ActiveSession } from './state.ts';

/** Sends calls in one request over a session's link; returns how that ended. */
type SendTogether = (calls: readonly PendingCall[], session: ActiveSession) => Promise<Ending>;

/** A place in a parcel, for one call. */
export interface Place {
  /** The call is ready to go, on this session. Returns how its exchange ended. */
  send(call: PendingCall, session: ActiveSession): Promise<Ending>;
  /** The call will not come. Does nothing where it came. */
  leave(): void;
}

/** A call that has its place. */
interface Boarded {
  readonly call: PendingCall;
  readonly session: ActiveSession;
  readonly resolve: (ending: Ending) => void;
  readonly reject: (error: unknown) => void;
}

/** Of an array that a server refused, so many calls are on their way at a time. */
const AT_A_TIME = 8;
/** The only version of the protocol that has JSON-RPC arrays (batches). */
const ARRAYS = '2025-03-26';
/** The SDK's servers refuse more than this in one array. */
const MOST_IN_ARRAY = 100;

/** Requests that are to go out in one POST. */
export class Parcel {
  /** How many are still to come. */
  #missing: number;
  readonly #boarded: Boarded[] = [];
  readonly #offering: <T>(place: () => Place, during: () => T) => T;
  readonly #dispatch: (boarded: readonly Boarded[]) => void;

  constructor(size: number, offering: <T>(place: () => Place, during: () => T) => T, dispatch: (boarded: readonly Boarded[]) => void) {
    this.#missing = size;
    this.#offering = offering;
    this.#dispatch = dispatch;
  }

  /** Runs `send`: the first request that the transport is given meanwhile goes with the parcel. If there is none, one fewer will come. */
  gather<T>(send: () => T): T {
    let taken = false;
    const place = (): Place => {
      taken = true;
      return this.#place();
    };
    try {
      return this.#offering(place, send);
    } finally {
      if (!taken) this.skip();
    }
  }

  /** One request fewer will come. */
  skip(): void {
    this.#missing--;
    if (this.#missing === 0) this.#dispatch(this.#boarded);
  }

  #place(): Place {
    let open = true;
    return {
      send: (call, session) => {
        open = false;
        return new Promise((resolve, reject) => {
          const boarded = { call, session, resolve, reject };
          // One more than was said: the others are gone.
          if (this.#missing <= 0) this.#dispatch([boarded]);
          else {
            this.#boarded.push(boarded);
            this.skip();
          }
        });
      },
      leave: () => {
        if (open) this.skip();
        open = false;
      },
    };
  }
}

/** Makes the parcels of one transport, and sends them on their way: as arrays where the server takes them, otherwise one by one. */
export class Parcels {
  readonly #send: SendTogether;
  /** Sessions whose server said no to an array. */
  readonly #refusing = new WeakSet<ActiveSession>();
  /** The place that the next request gets. */
  #offered: (() => Place) | undefined;

  constructor(send: SendTogether) {
    this.#send = send;
  }

  /** Whether a session's server may be sent an array; `anyVersion`: by the caller's word, and not by the version's. */
  takesArrays(session: ActiveSession | undefined, anyVersion = false): boolean {
    if (session?.link.kind !== 'http' || this.#refusing.has(session)) return false;
    return anyVersion || session.initialized.protocolVersion === ARRAYS;
  }

  create(size: number, anyVersion: boolean): Parcel {
    const offering = <T>(place: () => Place, during: () => T): T => {
      this.#offered = place;
      try {
        return during();
      } finally {
        this.#offered = undefined;
      }
    };
    return new Parcel(size, offering, (boarded) => this.#dispatch(boarded, anyVersion));
  }

  /** For a request that is sent now: its place in the parcel that is being gathered, if there is one. */
  claim(): Place | undefined {
    const offered = this.#offered;
    this.#offered = undefined;
    return offered?.();
  }

  #dispatch(boarded: readonly Boarded[], anyVersion: boolean): void {
    for (const session of new Set(boarded.map((each) => each.session))) {
      const together = boarded.filter((each) => each.session === session);
      for (let i = 0; i < together.length; i += MOST_IN_ARRAY) void this.#ship(together.slice(i, i + MOST_IN_ARRAY), session, anyVersion);
    }
  }

  async #ship(boarded: readonly Boarded[], session: ActiveSession, anyVersion: boolean): Promise<void> {
    // One that was given up while the others were gathered did not go out.
    for (const { call, resolve } of boarded) if (call.done) resolve({ type: 'aborted' });
    const going = boarded.filter(({ call }) => !call.done);
    if (going.length === 0) return;
    if (going.length > 1 && !this.takesArrays(session, anyVersion)) {
      this.#shipAlone(going, session);
      return;
    }
    try {
      const ending = await this.#send(going.map(({ call }) => call), session);
      if (going.length === 1 || !refusesArray(ending)) for (const { resolve } of going) resolve(ending);
      else if (ending.failure.status === 413) {
        const half = Math.ceil(going.length / 2);
        void this.#ship(going.slice(0, half), session, anyVersion);
        void this.#ship(going.slice(half), session, anyVersion);
      } else {
        this.#refusing.add(session);
        this.#shipAlone(going, session);
      }
    } catch (error) {
      // One that cannot be written as JSON must not lose its neighbours.
      if (going.length > 1 && going.every(({ call }) => !call.sent)) this.#shipAlone(going, session);
      else for (const { reject } of going) reject(error);
    }
  }

  /** One by one, a few at a time: together they had one turn among the client's calls. */
  #shipAlone(boarded: readonly Boarded[], session: ActiveSession): void {
    const waiting = [...boarded];
    const next = async (): Promise<void> => {
      for (let each = waiting.shift(); each; each = waiting.shift()) await this.#ship([each], session, false);
    };
    for (let i = 0; i < AT_A_TIME; i++) void next();
  }
}

/** Whether the server said no to the array itself, so that nothing in it ran, and not to whoever sends it or how often. */
function refusesArray(ending: Ending): ending is Ending & { type: 'refused' } {
  if (ending.type !== 'refused') return false;
  const { status, verdict } = ending.failure;
  return verdict === 'refused' && (status === 200 || (status >= 400 && status !== 403));
}
