// @ts-check
// The live log of a job: stream, rows, find, follow, copy, download.

import { segment } from './api.js';
import { bytes, count } from './format.js';
import { bind } from './keys.js';
import { LogLines, plainOf } from './loglines.js';
import { LogRows, describe } from './logrows.js';
import { logStream } from './logstream.js';
import { signal, untracked } from './signals.js';
import { html } from './view.js';
import { copy, problemNote } from './widgets.js';

const STATUS = {
    connecting: 'connecting …',
    live: 'live',
    broken: 'connection lost, trying again …',
    paused: 'paused',
    ended: 'complete',
    refused: '',
};
/** The shortest time between two announcements to screen readers, in ms. */
const ANNOUNCE = 5000;
/** For how long to search before the page gets its turn, in ms. */
const SLICE = 8;
/** The name of the marks of what was found, for CSS. */
const FOUND = 'log-found';

/**
 * @param {import('./scope.js').Scope} scope
 * @param {{ id: string, query: import('./router.js').Query, attempts: () => number[], event?: (event: any) => void,
 *   runs: () => boolean }} job `attempts`: the numbers of its attempts; `event` hears state, progress and attempts;
 *   `runs`: whether the job has not ended
 */
export function logView(scope, { id, query, attempts, event, runs }) {
    const lines = new LogLines();
    /** @type {LogRows | null} */
    let rows = null;
    const follows = signal(true);
    const size = signal({ total: 0, dropped: 0, missing: 0 });
    const announced = signal('');
    const wanted = signal('');
    const found = signal({ seqs: /** @type {number[]} */ ([]), at: -1 });
    /** @type {HTMLInputElement | null} */
    let findBox = null;
    let searched = -1;
    let hasNews = false;
    let announcedLines = 0;
    const isWrapped = () => query.get('wrap') === '1';
    const path = `/api/v1/jobs/${segment(id)}`;

    const stream = logStream(scope, (data) => {
        if (lines.take(data)) hasNews = true;
        if (data.type !== 'output' && data.type !== 'gap') event?.(data);
        rows?.invalidate();
    });
    let opened = '';
    // Another part of the log is another stream, so that its last lines are kept and not those of the rest.
    scope.effect(() => {
        const params = new URLSearchParams();
        for (const name of ['stream', 'attempt']) if (query.get(name)) params.set(name, query.get(name));
        const target = `${path}/logs${params.size ? `?${params}` : ''}`;
        if (target === opened) return;
        opened = target;
        untracked(() => {
            lines.clear();
            rows?.reset();
            announcedLines = 0;
            restart();
            stream.open(target);
        });
    });
    // A job that failed and was put back writes on.
    scope.effect(() => {
        if (runs()) untracked(stream.goOn);
    });
    scope.effect(() => {
        const wraps = isWrapped();
        untracked(() => rows?.setWrapped(wraps));
    });
    const announcer = setInterval(() => {
        const news = lines.total - announcedLines;
        if (!hasNews || document.hidden) return;
        hasNews = false;
        announcedLines = lines.total;
        const last = lines.at(lines.end - 1);
        const text = last && (last.kind === 'output' ? plainOf(last) : describe(last)).slice(0, 120);
        announced.value = `${count(news)} new lines. ${text ? `Last: ${text}` : ''}`;
    }, ANNOUNCE);
    scope.onEnd(() => {
        clearInterval(announcer);
        rows?.end();
        highlights()?.delete(FOUND);
    });

    // ---- Find

    function restart() {
        searched = -1;
        found.value = { seqs: [], at: -1 };
        search();
    }
    /** Searches the lines that are kept, and those that come. */
    function search() {
        const text = wanted.peek().toLowerCase();
        if (!text) {
            if (found.peek().seqs.length) found.value = { seqs: [], at: -1 };
            return;
        }
        const begin = performance.now();
        const { seqs, at } = found.peek();
        const kept = seqs.length && seqs[0] < lines.first ? seqs.filter((seq) => seq >= lines.first) : [...seqs];
        // A line that may still change is searched again.
        let seq = Math.max(searched, lines.first);
        if (kept[kept.length - 1] === seq) kept.pop();
        for (; seq < lines.end && performance.now() - begin < SLICE; seq++) {
            const line = lines.at(seq);
            if (line && plainOf(line).toLowerCase().includes(text)) kept.push(seq);
        }
        searched = Math.max(lines.first, Math.min(seq, lines.end - 1));
        const moved = seqs.length - kept.length;
        if (moved || kept.at(-1) !== seqs.at(-1))
            found.value = { seqs: kept, at: at < 0 ? -1 : Math.max(0, at - Math.max(0, moved)) };
        if (seq < lines.end) rows?.invalidate();
    }
    /** @param {number} step */
    function next(step) {
        search();
        const { seqs } = found.peek();
        if (!rows || !seqs.length) return;
        const from = rows.marked >= lines.first ? rows.marked : step > 0 ? rows.top - 1 : rows.top + 1;
        let at = step > 0 ? seqs.findIndex((seq) => seq > from) : seqs.findLastIndex((seq) => seq < from);
        if (at < 0) at = step > 0 ? 0 : seqs.length - 1;
        found.value = { seqs, at };
        rows.reveal(seqs[at]);
    }
    /** @param {Iterable<import('./logrows.js').Row>} visible */
    function rendered(visible) {
        size.value = sameOr(size.peek(), { total: lines.total, dropped: lines.dropped, missing: lines.missing });
        search();
        const marks = highlights();
        if (!marks) return;
        const text = wanted.peek().toLowerCase();
        marks.delete(FOUND);
        if (!text) return;
        const ranges = [...visible].flatMap(({ element }) => rangesOf(element, text));
        if (ranges.length) marks.set(FOUND, new Highlight(...ranges));
    }

    bind(scope, {
        f: ['Follow the log', () => toggleFollow()],
        w: ['Wrap long lines', () => query.set({ wrap: isWrapped() ? null : '1' })],
        '/': ['Find in the log', () => findBox?.focus()],
        n: ['Next found line', () => next(1)],
        N: ['Found line before', () => next(-1)],
    });
    function toggleFollow() {
        if (rows) rows.marked = -1;
        rows?.follow(!rows.follows);
    }
    function copyAll() {
        const texts = [];
        for (let seq = lines.first; seq < lines.end; seq++) {
            const line = lines.at(seq);
            if (!line) continue;
            texts.push(
                `${line.isMore || !texts.length ? '' : '\n'}${line.kind === 'output' ? plainOf(line)
                    : `[${describe(line)}]`}`,
            );
        }
        copy(texts.join(''));
    }

    const choice = (
        /** @type {string} */ name,
        /** @type {string} */ label,
        /** @type {[string, string][]} */ options,
    ) => html`
        <label class="inline">${label} <select
            @change=${(/** @type {Event} */ e) =>
                query.set({ [name]: /** @type {HTMLSelectElement} */ (e.target).value })}>
            ${options.map(([value, text]) =>
                html`<option value=${value} .selected=${query.get(name) === value}>${text}</option>`)}
        </select></label>`;

    return html`
        <div class="row log-tools">
            ${() =>
                choice('stream', 'Stream', [
                    ['', 'both'],
                    ['stdout', 'stdout'],
                    ['stderr', 'stderr'],
                ])}
            ${() => choice('attempt', 'Attempt',
                [['', 'all'], ...attempts().map((n) => /** @type {[string, string]} */ ([String(n), String(n)]))])}
            <input type="text" inputmode="search" class="log-find" placeholder="Find in the log (/)"
                aria-label="Find in the log" autocomplete="off" spellcheck="false"
                ref=${(/** @type {any} */ e) => (findBox = e)}
                @input=${(/** @type {Event} */ e) => {
                    wanted.value = /** @type {HTMLInputElement} */ (e.target).value;
                    if (rows) rows.marked = -1;
                    restart();
                    rows?.invalidate();
                }}
                @keydown=${(/** @type {KeyboardEvent} */ e) => {
                    if (e.key === 'Enter') next(e.shiftKey ? -1 : 1);
                }}>
            ${() =>
                wanted.value &&
                html`<span class="muted small nowrap" role="status">${foundText(found.value)}</span>
                <button class="small" title="Line before (N)" aria-label="Found line before"
                    @click=${() => next(-1)}>↑</button>
                <button class="small" title="Next line (n)" aria-label="Next found line"
                    @click=${() => next(1)}>↓</button>`}
            <span class="grow"></span>
            ${() => html`<button class="small" aria-pressed=${String(isWrapped())}
                @click=${() => query.set({ wrap: isWrapped() ? null : '1' })}>Wrap</button>`}
            ${() => html`<button class="small" aria-pressed=${String(follows.value)} title="Keep the end in view (f)"
                @click=${toggleFollow}>Follow</button>`}
            <button class="small" @click=${copyAll}>Copy</button>
        </div>
        <div class="log-frame"><div class="log" role="log" aria-live="off" tabindex="0" aria-label="Log" ref=${(
            /** @type {HTMLElement | null} */ element,
        ) => {
            if (!element || rows) return;
            rows = new LogRows(element, lines, { followed: (is) => (follows.value = is), rendered });
            rows.setWrapped(untracked(isWrapped));
        }}></div>
        ${() => (size.value.total ? null : html`<p class="log-nothing">Nothing has been written${
            stream.status.value === 'live' ? ' yet' : ''}.</p>`)}</div>
        <div class="row between small muted">
            <span>${() => summary(size.value, STATUS[stream.status.value])}</span>
            <span class="row">${() => downloads(path, attempts(), query.get('attempt'))}</span>
        </div>
        ${() =>
            stream.problem.value?.code === 'hidden'
                ? html`<div class="note">This server hides logs from viewers.</div>`
                : problemNote(stream.problem.value)}
        <div class="out-of-sight" role="status" aria-live="polite">${() => announced.value}</div>`;
}

/** @param {{ total: number, dropped: number, missing: number }} size @param {string} status */
function summary({ total, dropped, missing }, status) {
    return (
        `${count(total)} ${total === 1 ? 'line'
            : 'lines'}${dropped ? `, of which ${count(dropped)} older ones are dropped from view` : ''}` +
        `${missing ? `; ${bytes(missing)} are missing` : ''}${status ? ` · ${status}` : ''}`
    );
}

/** @param {string} path @param {number[]} attempts @param {string} chosen */
function downloads(path, attempts, chosen) {
    const n = Number(chosen) || attempts[attempts.length - 1];
    if (!n) return null;
    return html`<span>Download attempt ${n}:</span>
        <a href="${path}/attempts/${n}/stdout" download="">stdout</a> <a href="${path}/attempts/${n}/stderr"
            download="">stderr</a>`;
}

/** @param {{ seqs: number[], at: number }} found */
function foundText({ seqs, at }) {
    if (!seqs.length) return 'not found';
    const lines = `${count(seqs.length)} ${seqs.length === 1 ? 'line' : 'lines'}`;
    return at < 0 ? lines : `${count(at + 1)} of ${lines}`;
}

/**
 * The old value if the new one is equal, so that readers are not told.
 * @template {Record<string, number>} T
 * @param {T} old
 * @param {T} made
 * @returns {T}
 */
function sameOr(old, made) {
    return Object.keys(made).every((key) => old[key] === made[key]) ? old : made;
}

/** The registry of marks, in browsers that have one. @returns {any} */
function highlights() {
    return 'highlights' in CSS ? CSS.highlights : null;
}

/** Where a text is in a row. @param {HTMLElement} row @param {string} text */
function rangesOf(row, text) {
    const all = (row.textContent ?? '').toLowerCase();
    const ranges = [];
    if (all.length !== (row.textContent ?? '').length) return [];
    for (let at = all.indexOf(text); at >= 0 && ranges.length < 100; at = all.indexOf(text, at + text.length)) {
        const range = document.createRange();
        let before = 0;
        const walker = document.createTreeWalker(row, NodeFilter.SHOW_TEXT);
        for (let node = walker.nextNode(); node; node = walker.nextNode()) {
            const length = /** @type {Text} */ (node).length;
            if (at >= before && at < before + length) range.setStart(node, at - before);
            const end = at + text.length;
            if (end > before && end <= before + length) {
                range.setEnd(node, end - before);
                break;
            }
            before += length;
        }
        ranges.push(range);
    }
    return ranges;
}
