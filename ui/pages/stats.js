// @ts-check
// Statistics of jobs: how long they wait and run, what failures cost, what they need, whether crowds harm them, and how
// builds fare.

import { url } from '../lib/api.js';
import { href } from '../lib/router.js';
import { resource } from '../lib/scope.js';
import { spanFilters, spanOf } from '../lib/span.js';
import { html } from '../lib/view.js';
import { empty, loading, problemNote } from '../lib/widgets.js';
import { builds } from './stats/builds.js';
import { concurrency } from './stats/concurrency.js';
import { cost } from './stats/cost.js';
import { durations } from './stats/durations.js';
import { sizes } from './stats/sizes.js';

/**
 * `report` is what the server calls it; `csv` tells whether its CSV holds what the tab shows.
 * @typedef {(query: import('../lib/router.js').Query, report: any) => unknown} View
 * @typedef {{ name: string, report: string, csv: boolean, view: View }} Tab
 */
/** @type {Record<string, Tab>} */
const TABS = {
    durations: { name: 'Durations', report: 'durations', csv: true, view: durations },
    cost: { name: 'Cost of failures', report: 'cost', csv: true, view: cost },
    sizes: { name: 'Right-sizing', report: 'cost', csv: false, view: sizes },
    concurrency: { name: 'Concurrency', report: 'concurrency', csv: true, view: concurrency },
    builds: { name: 'Builds', report: 'builds', csv: false, view: builds },
};

/** @type {import('../lib/router.js').Page} */
export default function stats({ scope, query, title }) {
    title('Statistics');
    const chosen = () => (query.get('tab') in TABS ? query.get('tab') : 'durations');
    const tab = () => TABS[chosen()];
    const path = () => `/stats/${tab().report}`;
    // Builds are told of all jobs of a name; without a name, those are told that do worse.
    /** @type {() => [string, Record<string, any>]} */
    const asked = () => (tab().report !== 'builds' ? [path(), spanOf(query)]
        : query.get('name') ? [path(), { name: query.get('name') }] : ['/stats/regressions', {}]);
    const report = resource(scope, asked, { every: 60_000 });
    // What another tab has asked for is not what this one shows.
    const fits = () => {
        const data = report.data.value;
        const isRegressions = data?.items?.every((/** @type {any} */ item) => 'says' in item);
        return data && (tab().report === 'concurrency' ? 'levels' in data : tab().report === 'cost' ? 'sizes' in data :
            tab().report === 'builds' ? (query.get('name') ? data.name === query.get('name') : isRegressions) :
            'items' in data && !('sizes' in data) && (!data.items.length || !isRegressions));
    };

    return () => html`
        <div class="row between">
            <h1>Statistics</h1>
            ${() => (tab().csv ? html`<a href=${url(path(), { ...spanOf(query), format: 'csv' })}
                download="${tab().report}.csv">Download as CSV</a>` : null)}
        </div>
        ${spanFilters(scope, query)}
        <nav class="tabs" aria-label="Statistics">${() => Object.entries(TABS).map(([key, { name }]) => html`
            <a href=${href('/stats', { tab: key, ...spanOf(query) })}
                aria-current=${key === chosen() ? 'page' : null}>${name}</a>`)}
        </nav>
        ${() => problemNote(report.error.value, report.data.value !== null)}
        ${() => (fits() ? (tab().report !== 'builds' && isEmpty(report.data.value) ? nothing(query) : tab().view(query, report.data.value))
            : report.error.value ? null : loading)}`;
}

/** @param {any} report */
function isEmpty(report) {
    const lists = [report.items, report.levels, report.sizes].filter(Boolean);
    return lists.every((list) => list.length === 0);
}

/** @param {import('../lib/router.js').Query} query */
function nothing(query) {
    const isFiltered = ['name', 'queue', 'since', 'until'].some((name) => query.get(name));
    return isFiltered
        ? empty('No such job has ended', html`Of what was chosen nothing is counted.${' '}<button class="small"
            @click=${() =>
            query.set({ name: null, queue: null, since: null, until: null })}>Show all</button>`)
        : empty('No job has ended yet', 'When jobs have run, their times and needs stand here.', 'jobber submit hello');
}
