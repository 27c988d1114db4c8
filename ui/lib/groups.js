// @ts-check
// Errors as a list: what each says, how often and when, and which jobs said it.

import { sparkline } from './charts.js';
import { trendOf } from './figures.js';
import { count } from './format.js';
import { href } from './router.js';
import { each, html } from './view.js';
import { action, jobLink, when } from './widgets.js';

/**
 * @param {any[]} items
 * @param {{ retry: (selection: import('./act-on-jobs.js').Selection, what: string) => void, nearness: boolean,
 *   days: number }} options
 *   `nearness`: the similarity is to a text that was searched for, and is worth telling
 */
export function groupList(items, { retry, nearness, days }) {
    if (!items.length) return html`<p class="muted">Nothing known is similar.</p>`;
    return html`<ul class="list errors">${each(items, (g) => g.fingerprint, (g) => html`<li>
        <div class="error-main">
            <a class="error-text mono clip" href=${href(`/failures/${g.fingerprint}`)}>${firstLines(g.text) ||
                'What it said is no longer kept'}</a>
            <p class="small muted">
                <a href=${href('/failures', { category: g.category })}>${g.category_name}</a>
                ${nearness ? html`<span> · similarity ${g.similarity?.toFixed(2) ?? '–'}</span>` : null}
                <span> · ${g.names.slice(0, 4).join(', ')}${g.names.length > 4 ? ' and others' : ''}</span>
                <span> · first ${when(g.first_seen)}, last ${when(g.last_seen)}</span>
                ${g.samples.length ? html`<span> · e.g. ${jobLink(g.samples[0])}</span>` : null}
            </p>
        </div>
        <div class="error-side">
            ${trend(g.trend, days)}
            <a class="number error-count" href=${href('/jobs', { fingerprint: g.fingerprint })}
                title="The jobs of which an attempt failed so">${count(g.count)}<span class="hear"> failed
                attempts</span></a>
            ${action('Retry …', () => retry({ fingerprint: g.fingerprint }, 'failed jobs with this error'),
                { kind: 'small' })}
        </div>
    </li>`)}</ul>`;
}

/** @param {any} trend @param {number} days */
function trend(trend, days) {
    const counts = trendOf(trend).map((day) => day.count);
    if (!counts.length) return null;
    return sparkline(counts, `${count(counts.reduce((a, b) => a + b, 0))} failures in ${days} days`, 'failed');
}

/** Without empty lines, which would waste the little room. @param {string} text */
function firstLines(text) {
    return text.split('\n').filter((line) => line.trim()).slice(0, 3).join('\n').slice(0, 600);
}
