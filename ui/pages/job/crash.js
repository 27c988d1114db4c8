// @ts-check
// Where an attempt crashed: its stack, and what else was seen of the process.

import { html } from '../../lib/view.js';
import { count } from '../../lib/format.js';

/** How many frames stand above the fold. */
const FIRST = 8;

/** What was at an address, as the server names it. @type {Record<string, string>} */
const WHAT = {
    null_page: 'a null pointer, or a member of nothing',
    stack_guard: 'below the stack, which has overflowed',
    unmapped: 'nothing is there',
    read_only: 'memory that may not be written',
    code: 'code, which may not be written',
    not_executable: 'memory that may not be executed',
    no_access: 'memory that may not be used at all',
    beyond_file: 'beyond the end of a mapped file',
    misaligned: 'not aligned as the instruction asks',
    general_protection: 'no address that could be used',
    mapped: 'memory that seems to be usable',
};

/** @param {any} crash */
export function crashView(crash) {
    const frames = crash.frames ?? [];
    const rest = frames.slice(FIRST);
    return html`<section aria-label="Crash">
        <h3>Where it crashed</h3>
        ${frames.length ? stack(crash, frames.slice(0, FIRST), 0) : html`<p class="muted">No frame is known.</p>`}
        ${
            rest.length
                ? html`<details><summary>${count(rest.length)} more frames</summary>${stack(crash, rest, FIRST)}</details>`
                : null
        }
        <dl class="facts">
            ${crash.address ? html`<dt>Address</dt><dd><code>${crash.address}</code>${pointsAt(crash)}</dd>` : null}
            ${crash.code ? html`<dt>Signal</dt><dd>${crash.signal}, <code>${crash.code}</code>${crash.sent_by
                ? `, sent by process ${crash.sent_by}` : ''}</dd>` : null}
            <dt>Thread</dt><dd>${crash.thread_name} (${crash.thread}) of process ${crash.process},
                ${crash.command}${crash.of_child ? ', which the job had started' : ''}</dd>
            ${crash.incomplete ? html`<dt>Incomplete</dt><dd>${crash.incomplete}</dd>` : null}
        </dl>
        ${more('Registers', crash.registers, (/** @type {any} */ r) => `${r.name.padEnd(8)} ${r.value}`)}
        ${more('Modules', crash.modules, (/** @type {any} */ m) => `${m.base}  ${(m.build_id ?? '-').slice(0, 12).padEnd(12)}  ${m.path}`)}
        ${more('Other threads', crash.other_threads, String)}
    </section>`;
}

/** @param {any} crash */
const pointsAt = (crash) => (crash.points_at ? `: ${WHAT[crash.points_at] ?? crash.points_at}` : '');

/** @param {any} crash @param {any[]} frames @param {number} first */
function stack(crash, frames, first) {
    const lines = frames.flatMap((frame, i) => {
        const left = crash.frames_omitted && crash.omitted_before === first + i;
        const gap = left ? [html`<span class="muted">     … ${count(crash.frames_omitted)} frames …\n</span>`] : [];
        return [...gap, line(frame, first + i)];
    });
    return html`<pre class="code" tabindex="0" aria-label=${first ? 'The rest of the stack' : 'Stack'}>${lines}</pre>`;
}

/** @param {any} frame @param {number} number */
function line(frame, number) {
    const file = frame.file ? ` at ${frame.file}${frame.line ? `:${frame.line}` : ''}` : '';
    const module = !frame.file && frame.module ? ` in ${frame.module}${frame.offset ? `+${frame.offset}` : ''}` : '';
    const text = `${String(number).padStart(3)}  ${frame.function ?? '??'}${frame.inlined ? ' (inlined)' : ''}${file}${module}${frame.guessed ? ' (guessed)' : ''}\n`;
    return frame.own ? html`<strong>${text}</strong>` : html`<span class="muted">${text}</span>`;
}

/** @param {string} title @param {any[] | undefined} items @param {(item: any) => string} show */
function more(title, items, show) {
    if (!items?.length) return null;
    return html`<details><summary>${title}</summary>
        <pre class="code" tabindex="0" aria-label=${title}>${items.map(show).join('\n')}</pre></details>`;
}
