// @ts-check
// Who runs jobs: the cores of each host with what runs on them, memory, health; draining.

import { post, segment } from '../lib/api.js';
import { bytes, count } from '../lib/format.js';
import { href } from '../lib/router.js';
import { resource } from '../lib/scope.js';
import { each, html } from '../lib/view.js';
import { action, attempt, confirm, empty, jobLink, loading, problemNote, when } from '../lib/widgets.js';

/** @typedef {{ job: string, name: string, attempt: number, cpus: number[], started_at: string, memory_bytes?: number,
 *   resources?: Record<string, string[]> }} Running */
/**
 * @typedef {{ id: string, host: string, pid: number, version: string, started_at: string, last_seen: string,
 *   slots: number, cores: number, running: number, draining: boolean, unhealthy?: string, binaries?: string[],
 *   cpus?: number[], memory_bytes?: number, memory_available_bytes?: number, jobs?: Running[], queues?: string[],
 *   builds?: Record<string, { bytes: number, digest: string }>, labels?: Record<string, string>, resources?: Record<string, string[]>, job_memory_bytes?: number }} Worker
 */

/** @type {import('../lib/router.js').Page} */
export default function workers({ scope, title }) {
    title('Workers');
    const list = resource(scope, () => ['/workers'], { every: 2000 });

    return () => html`
        <div class="row between">
            <h1>Workers</h1>
            <span class="muted small">${() => (list.data.value ? summary(list.data.value.items) : '')}</span>
        </div>
        ${() => problemNote(list.error.value, list.data.value !== null)}
        ${() => (list.data.value ? hosts(list.data.value.items, list.reload) : list.error.value ? null : loading)}`;
}

/** @param {Worker[]} items */
function summary(items) {
    const sum = (/** @type {(w: Worker) => number} */ of) => items.reduce((total, worker) => total + of(worker), 0);
    return `${count(sum((w) => w.running))} of ${count(sum((w) => w.slots))} slots taken, ${count(sum((w) => w.cores))} cores`;
}

/** @param {Worker[]} items @param {() => Promise<void>} reload */
function hosts(items, reload) {
    if (!items.length) return empty('No worker is running', 'Jobs wait until one comes. A worker is a process of its own:', 'jobber work');
    const names = [...new Set(items.map((worker) => worker.host))].sort();
    return html`${differing(items)}${each(names, (host) => host, (host) => html`
        <section class="panel" aria-label="Host ${host}">
            <div class="row between">
                <h2>${host}</h2>
                ${memory(items.find((w) => w.host === host && w.memory_bytes))}
            </div>
            ${each(items.filter((w) => w.host === host), (w) => w.id, (w) => worker(w, reload))}
        </section>`)}`;
}

/** Warns of binaries of which workers have different builds. @param {Worker[]} items */
function differing(items) {
    /** @type {Map<string, Set<string>>} */
    const digests = new Map();
    for (const { builds } of items) {
        for (const [name, { digest }] of Object.entries(builds ?? {})) digests.set(name, (digests.get(name) ?? new Set()).add(digest));
    }
    const names = [...digests.keys()].filter((name) => (digests.get(name)?.size ?? 0) > 1).sort();
    if (!names.length) return null;
    return html`<div class="note warn"><strong>Workers have different builds</strong> of ${names.join(', ')}: what a job does
        depends on where it runs. Each worker's binaries tell theirs when pointed at.</div>`;
}

/** @param {Worker | undefined} worker */
function memory(worker) {
    if (!worker?.memory_bytes) return null;
    const used = worker.memory_bytes - (worker.memory_available_bytes ?? 0);
    return html`<div class="memory small">
        <span>${bytes(used)} of ${bytes(worker.memory_bytes)} memory used</span>
        <div class="meter accent"><span style=${{ width: `${Math.min(100, (100 * used) / worker.memory_bytes)}%` }}></span></div>
    </div>`;
}

/** @param {Worker} worker @param {() => Promise<void>} reload */
function worker(worker, reload) {
    return html`<article class="worker stack">
        <div class="row between">
            <h3 class="mono">${worker.id}</h3>
            <div class="row">
                ${standing(worker)}
                ${worker.draining ? null : action('Drain', () => drain(worker, reload), { title: 'Takes nothing new, and ends when its jobs have' })}
            </div>
        </div>
        ${worker.unhealthy ? html`<div class="note warn"><strong>It can't start jobs:</strong> ${worker.unhealthy}</div>` : null}
        ${coreMap(worker)}
        <dl class="facts">
            <dt>Slots</dt><dd>${worker.running} of ${worker.slots} taken</dd>
            ${worker.queues ? html`<dt>Queues</dt><dd>${worker.queues.join(', ')}</dd>` : null}
            ${worker.labels ? html`<dt>Labels</dt><dd class="mono">${pairs(worker.labels)}</dd>` : null}
            ${Object.entries(worker.resources ?? {}).map(([name, units]) =>
                html`<dt>${name}</dt><dd>${unitsOf(name, units, worker.jobs ?? [])}</dd>`)}
            ${worker.job_memory_bytes
                ? html`<dt>Memory for jobs</dt><dd>${bytes(worker.job_memory_bytes)}, which their limits share</dd>` : null}
            <dt>Process</dt><dd>${worker.pid}, Jobber ${worker.version}, started ${when(worker.started_at)}</dd>
            <dt>Last heard of</dt><dd>${when(worker.last_seen)}</dd>
            <dt>Binaries</dt><dd>${binaries(worker)}</dd>
            <dt>Jobs</dt><dd><a href=${href('/jobs', { worker: worker.id })}>Jobs that it ran last</a></dd>
        </dl>
        ${worker.jobs?.length ? running(worker.jobs) : null}
    </article>`;
}

/** @param {Worker} worker */
function standing(worker) {
    if (worker.unhealthy) return html`<span class="state failed"><span aria-hidden="true">✕</span> can't start jobs</span>`;
    if (worker.draining) return html`<span class="state cancelled"><span aria-hidden="true">⊘</span> draining</span>`;
    return html`<span class="state completed"><span aria-hidden="true">✓</span> takes jobs</span>`;
}

/** @param {Worker} worker */
function binaries({ binaries: names, builds }) {
    if (!names) return html`<span class="muted">It does not tell, or has too many to list.</span>`;
    if (!names.length) return html`<span class="bad-text">none: put programs into its jobs directory</span>`;
    const shown = names.slice(0, 12);
    const one = (/** @type {string} */ name, /** @type {number} */ i) => {
        const build = builds?.[name];
        const title = build ? `${bytes(build.bytes)}, build ${build.digest}` : null;
        return html`${i ? ', ' : ''}<span title=${title}>${name}</span>`;
    };
    return html`${shown.map(one)}${names.length > shown.length ? html` <span class="muted">and ${names.length - shown.length} more</span>` : null}`;
}

/** @param {Record<string, string>} labels */
function pairs(labels) {
    return Object.entries(labels).map(([name, value]) => `${name}=${value}`).join(', ');
}

/** Which job holds which unit of a resource. @param {string} name @param {string[]} units @param {Running[]} jobs */
function unitsOf(name, units, jobs) {
    const SHOWN = 16;
    const holder = (/** @type {string} */ unit) => jobs.find((job) => job.resources?.[name]?.includes(unit));
    const held = units.filter(holder);
    return html`${units.length - held.length} of ${units.length} free${held.slice(0, SHOWN).map((unit) => {
        const job = /** @type {Running} */ (holder(unit));
        return html`; ${unit}: <a href=${href(`/jobs/${segment(job.job)}`)} title=${job.job}>${job.name}</a>`;
    })}${held.length > SHOWN ? html` <span class="muted">and ${held.length - SHOWN} more</span>` : null}`;
}

/** A box for each core, with what runs on it. @param {Worker} worker */
function coreMap(worker) {
    if (!worker.cpus) return html`<p class="muted small">This worker is of an older version, which does not tell what runs on which core.</p>`;
    /** @type {Map<number, Running[]>} */
    const on = new Map();
    for (const job of worker.jobs ?? []) for (const cpu of job.cpus) on.set(cpu, [...(on.get(cpu) ?? []), job]);
    return html`<ul class="cores" aria-label="Cores">${each(worker.cpus, (cpu) => cpu, (cpu) => {
        const jobs = on.get(cpu) ?? [];
        return html`<li class="core ${jobs.length ? 'busy' : ''}">
            <span class="muted small">core ${cpu}</span>
            ${jobs.length
                ? jobs.slice(0, 2).map((job) => html`<a href=${href(`/jobs/${segment(job.job)}`)} title="${job.name}, attempt ${job.attempt}, ${job.job}">${job.name}</a>`)
                : html`<span class="muted">free</span>`}
            ${jobs.length > 2 ? html`<span class="muted small">and ${jobs.length - 2} more</span>` : null}
        </li>`;
    })}</ul>`;
}

/** @param {Running[]} jobs */
function running(jobs) {
    return html`<div class="scroll" tabindex="0" role="region" aria-label="What runs now"><table>
        <thead><tr>
            <th scope="col">Runs now</th><th scope="col">Name</th><th scope="col" class="number">Attempt</th>
            <th scope="col">Cores</th><th scope="col" class="number">Memory</th><th scope="col">Started</th>
        </tr></thead>
        <tbody>${each(jobs, (job) => `${job.job} ${job.attempt}`, (job) => html`<tr>
            <td>${jobLink(job.job)}</td><td>${job.name}</td><td class="number">${job.attempt}</td>
            <td>${job.cpus.join(', ')}</td><td class="number">${bytes(job.memory_bytes)}</td><td>${when(job.started_at)}</td>
        </tr>`)}</tbody>
    </table></div>`;
}

/** @param {Worker} worker @param {() => Promise<void>} reload */
async function drain(worker, reload) {
    const sure = await confirm(
        'Drain this worker?',
        `${worker.id} takes nothing new and ends when its ${worker.running} running jobs have. It does not come back by itself.`,
        'Drain',
    );
    if (!sure) return;
    await attempt(() => post(`/workers/${segment(worker.id)}:drain`), 'The worker was told to drain');
    await reload();
}
