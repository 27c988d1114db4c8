// @ts-check
// The description of the HTTP API, for people: every operation with what it takes, gives and refuses.

import { url } from '../lib/api.js';
import { resource } from '../lib/scope.js';
import { html } from '../lib/view.js';
import { copyable, json, loading, problemNote } from '../lib/widgets.js';

/** @typedef {{ method: string, path: string, operation: any }} Entry */

const METHODS = ['get', 'post', 'put', 'delete'];

/** @type {import('../lib/router.js').Page} */
export default function api({ scope, query, title }) {
    title('HTTP API');
    const document = resource(scope, () => ['/openapi.json']);
    const search = () => query.get('q').toLowerCase();

    return () => html`
        <div class="row between">
            <h1>HTTP API</h1>
            <a href=${url('/openapi.json')} download="jobber-openapi.json">OpenAPI document</a>
        </div>
        <p class="muted">Clients can be generated from the document. <code>jobber openapi</code> prints the same.</p>
        <label>Find an operation <input type="search" .value=${query.get('q')} @input=${(/** @type {Event} */ e) => {
            query.set({ q: /** @type {HTMLInputElement} */ (e.target).value });
        }}></label>
        ${() => problemNote(document.error.value)}
        ${() => (document.data.value ? groups(document.data.value, search()) : document.error.value ? null : loading)}`;
}

/** @param {any} document @param {string} search */
function groups(document, search) {
    /** @type {Entry[]} */
    const all = Object.entries(document.paths).flatMap(([path, methods]) =>
        METHODS.filter((method) => methods[method]).map((method) => ({ method, path, operation: methods[method] })));
    const found = all.filter(({ method, path, operation }) =>
        `${method} ${path} ${operation.summary} ${operation.operationId}`.toLowerCase().includes(search));
    if (!found.length) return html`<p>No operation has this in its path or its summary.</p>`;
    return document.tags.map((/** @type {{ name: string, description: string }} */ tag) => {
        const mine = found.filter((entry) => entry.operation.tags.includes(tag.name));
        return mine.length ? html`<section class="panel" aria-label=${tag.name}>
            <h2>${tag.name}</h2>
            <p class="muted">${tag.description}</p>
            <div>${mine.map((entry) => details(entry, document))}</div>
        </section>` : null;
    });
}

/** @param {Entry} entry @param {any} document */
function details({ method, path, operation }, document) {
    const body = operation.requestBody?.content?.['application/json'];
    return html`<details class="operation">
        <summary><span class="method">${method.toUpperCase()}</span> <code>${path}</code> <span class="muted">${operation.summary}${operation.deprecated ? ' (for old clients)' : ''}</span></summary>
        <div class="stack">
            ${operation.description ? html`<p>${operation.description}</p>` : null}
            ${operation.parameters?.length ? parameters(operation.parameters) : null}
            ${body ? html`<h3>Body${operation.requestBody.required ? '' : ' (may be left out)'}</h3>
                ${fields(body.schema, document)}${json(body.example)}` : null}
            ${copyable(curl(method, path, body?.example))}
            ${answers(operation.responses, document)}
        </div>
    </details>`;
}

/** @param {any[]} list */
function parameters(list) {
    return html`<div class="scroll" tabindex="0" role="region" aria-label="Parameters"><table>
        <thead><tr><th scope="col">Parameter</th><th scope="col">In</th><th scope="col">Type</th><th scope="col">Meaning</th></tr></thead>
        <tbody>${list.map((p) => html`<tr><td><code>${p.name}</code></td><td>${p.in}</td><td>${typeOf(p.schema)}</td><td class="wide">${p.description}</td></tr>`)}</tbody>
    </table></div>`;
}

/** The properties of a schema, of the schemas that it refers to, and of those that it is made of. @param {any} schema @param {any} document @returns {[string, any][]} */
function properties(schema, document) {
    const found = schema?.$ref ? document.components.schemas[schema.$ref.split('/').at(-1)] : schema;
    const parts = (found?.allOf ?? []).flatMap((/** @type {any} */ part) => properties(part, document));
    return [...parts, ...Object.entries(found?.properties ?? {})];
}

/** @param {any} schema @param {any} document */
function fields(schema, document) {
    const rows = properties(schema, document);
    if (!rows.length) return null;
    return html`<div class="scroll" tabindex="0" role="region" aria-label="Fields"><table>
        <thead><tr><th scope="col">Field</th><th scope="col">Type</th><th scope="col">Meaning</th></tr></thead>
        <tbody>${rows.map(([name, field]) => html`<tr><td><code>${name}</code></td><td>${typeOf(field)}</td><td class="wide">${field.description ?? ''}</td></tr>`)}</tbody>
    </table></div>`;
}

/** A type in words. @param {any} schema @returns {string} */
function typeOf(schema) {
    if (!schema) return '';
    if (schema.$ref) return schema.$ref.split('/').at(-1);
    const parts = schema.oneOf ?? schema.anyOf;
    if (parts) return parts.map(typeOf).join(' or ');
    if (schema.enum) return schema.enum.join(', ');
    const type = [schema.type ?? 'any'].flat().join(' or ');
    const bounds = schema.minimum === undefined && schema.maximum === undefined ? '' : ` ${schema.minimum ?? ''}–${schema.maximum ?? ''}`;
    return schema.type === 'array' ? `list of ${typeOf(schema.items)}` : type + bounds;
}

/** @param {any} responses @param {any} document */
function answers(responses, document) {
    return html`<h3>Answers</h3><ul class="list">${Object.entries(responses).map(([status, response]) => {
        const schema = response.content?.['application/json']?.schema;
        // The lines of a list of codes, as the document writes them.
        const lines = response.description.split('\n').map((/** @type {string} */ line) => line.replace(/^- /, ''));
        return html`<li><strong>${status}</strong> ${schema ? html`<span class="muted">${typeOf(schema)}</span> ` : null}
            ${lines.length > 1 || lines[0].startsWith('`')
                ? html`<ul>${lines.map((/** @type {string} */ line) => html`<li>${line.replaceAll('`', '')}</li>`)}</ul>`
                : ` ${lines[0]}`}
            ${schema ? html`<details><summary>Its fields</summary>${fields(schema, document)}</details>` : null}
        </li>`;
    })}</ul>`;
}

/** @param {string} method @param {string} path @param {unknown} example */
function curl(method, path, example) {
    const verb = method === 'get' ? '' : ` -X ${method.toUpperCase()}`;
    const body = example === undefined ? '' : ` -H 'Content-Type: application/json' -d '${JSON.stringify(example)}'`;
    return `curl${verb} '${location.origin}${path}'${body}`;
}
