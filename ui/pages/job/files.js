// @ts-check
// The files that an attempt has left: pictures as such, all others to download.

import { segment } from '../../lib/api.js';
import { bytes, count } from '../../lib/format.js';
import { html } from '../../lib/view.js';

/** Types that browsers show and that can do nothing but be seen. */
const PICTURES = ['image/png', 'image/jpeg', 'image/gif', 'image/webp'];
/** The most pictures that are shown at once, and the largest one, in bytes. */
const SHOWN = 12;
const LARGEST = 32 * 1024 * 1024;

/** @param {string} id @param {number} attempt @param {any} report */
export function filesView(id, attempt, report) {
    const files = report?.files ?? [];
    if (!files.length && !report?.files_note) return null;
    const url = (/** @type {any} */ file) =>
        `/api/v1/jobs/${segment(id)}/attempts/${attempt}/files/${file.name.split('/').map(segment).join('/')}`;
    const pictures = files
        .filter((/** @type {any} */ file) => PICTURES.includes(file.content_type) && file.size <= LARGEST)
        .slice(0, SHOWN);
    return html`<section aria-label="Files of attempt ${attempt}">
        <h3>Files <span class="muted small">${count(files.length)}</span></h3>
        ${pictures.length ? html`<div class="pictures">${pictures.map((/** @type {any} */ file) => html`
            <a href=${url(file)} target="_blank" rel="noopener"><img src=${url(file)} alt=${file.name} loading="lazy"></a>`)}</div>` : null}
        ${files.length ? html`<ul class="files">${files.map((/** @type {any} */ file) => html`
            <li><a href=${url(file)} download="">${file.name}</a>
                <span class="muted small">${bytes(file.size)}, ${file.content_type},
                    <code title=${file.sha256}>${file.sha256.slice(0, 12)}</code></span></li>`)}</ul>` : null}
        ${report.files_note ? html`<div class="note warn">${report.files_note}</div>` : null}
    </section>`;
}
