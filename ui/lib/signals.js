// @ts-check
// Values that tell their readers when they change. Effects run together, once per animation frame.

/**
 * @template T
 * @typedef {{ value: T, peek: () => T }} Signal
 */
/** @typedef {{ sources: Set<Set<Reader>>, stale: () => void }} Reader */

/** @type {Reader | null} The effect or computed value that is running, and so notes what it reads. */
let running = null;
/** @type {Set<() => void>} */
const due = new Set();
let frame = 0;

/** @param {Set<Reader>} readers */
function track(readers) {
    if (running) {
        readers.add(running);
        running.sources.add(readers);
    }
}

/** @param {Reader} reader */
function forget(reader) {
    for (const readers of reader.sources) readers.delete(reader);
    reader.sources.clear();
}

/** @template T @param {Reader | null} reader @param {() => T} run @returns {T} */
function as(reader, run) {
    const outer = running;
    running = reader;
    try {
        return run();
    } finally {
        running = outer;
    }
}

/** @param {Set<Reader>} readers */
function tell(readers) {
    for (const reader of [...readers]) reader.stale();
}

/**
 * A value that can be set.
 * @template T
 * @param {T} value
 * @returns {Signal<T>}
 */
export function signal(value) {
    /** @type {Set<Reader>} */
    const readers = new Set();
    return {
        get value() {
            track(readers);
            return value;
        },
        set value(next) {
            if (Object.is(next, value)) return;
            value = next;
            tell(readers);
        },
        peek: () => value,
    };
}

/**
 * A value that follows from others. It is worked out when somebody reads it after a change.
 * @template T
 * @param {() => T} work
 * @returns {{ readonly value: T }}
 */
export function computed(work) {
    /** @type {Set<Reader>} */
    const readers = new Set();
    /** @type {T} */
    let value;
    let stale = true;
    /** @type {Reader} */
    const self = {
        sources: new Set(),
        stale: () => {
            if (stale) return;
            stale = true;
            tell(readers);
        },
    };
    return {
        get value() {
            track(readers);
            if (stale) {
                forget(self);
                value = as(self, work);
                stale = false;
            }
            return value;
        },
    };
}

/**
 * Runs `work` now, and again in the frame after something that it read has changed.
 * @param {() => void} work
 * @returns {() => void} ends it
 */
export function effect(work) {
    let ended = false;
    const run = () => {
        if (ended) return;
        forget(self);
        as(self, work);
    };
    /** @type {Reader} */
    const self = {
        sources: new Set(),
        stale: () => {
            due.add(run);
            if (!frame) frame = requestAnimationFrame(flush);
        },
    };
    run();
    return () => {
        ended = true;
        due.delete(run);
        forget(self);
    };
}

/** Reads without being told of changes. @template T @param {() => T} read @returns {T} */
export function untracked(read) {
    return as(null, read);
}

/** Runs what is due. One that fails does not keep the others from running. */
export function flush() {
    cancelAnimationFrame(frame);
    frame = 0;
    const now = [...due];
    due.clear();
    for (const run of now) {
        try {
            run();
        } catch (error) {
            reportError(error);
        }
    }
}
