// @ts-check
// A table that the user sorts; the order stands in the address.

import { each, html } from './view.js';

/**
 * `value` is what the column is sorted by, with null last; without it the column can't be sorted.
 * @template T
 * @typedef {{ key: string, name: string, number?: boolean, wide?: boolean, title?: string, cell: (row: T) => unknown,
 *   value?: (row: T) => number | string | null }} Column
 */

/**
 * @template T
 * @param {import('./router.js').Query} query
 * @param {{ label: string, columns: Column<T>[], rows: T[], key: (row: T) => unknown, usual?: string, param?: string,
 *   mark?: (row: T) => boolean }} table
 *   `usual`: the order without a choice, such as `-count` for the most first; `param`: its name in the address
 */
export function sortTable(query, { label, columns, rows, key, usual = '', param = 'sort', mark }) {
    const order = query.get(param) || usual;
    const down = order.startsWith('-');
    const by = columns.find((column) => column.key === order.slice(down ? 1 : 0));
    const sorted = by?.value ? [...rows].sort((a, b) => compare(by.value?.(a) ?? null, by.value?.(b) ?? null, down))
        : rows;
    const head = (/** @type {Column<T>} */ column) => {
        const is = by === column;
        const numbers = Boolean(column.number);
        const next = is ? (down ? column.key : `-${column.key}`) : `${numbers ? '-' : ''}${column.key}`;
        return html`<th scope="col" class=${numbers ? 'number' : ''} title=${column.title ?? null}
            aria-sort=${is ? (down ? 'descending' : 'ascending') : null}>${column.value
            ? html`<button class="sort" @click=${() => query.set({ [param]: next })}>${column.name}<span
                aria-hidden="true">${is ? (down ? ' ▾' : ' ▴') : ''}</span></button>`
            : column.name || html`<span class="hear">Actions</span>`}</th>`;
    };
    return html`<div class="scroll" tabindex="0" role="group" aria-label=${label}><table>
        <thead><tr>${columns.map(head)}</tr></thead>
        <tbody>${each(sorted, key, (row) => html`<tr class=${mark?.(row) ? 'at' : ''}>${columns.map((column) => html`
            <td class="${column.number ? 'number' : ''} ${column.wide ? 'wide'
                : ''}">${column.cell(row)}</td>`)}</tr>`)}
        </tbody>
    </table></div>`;
}

/** @param {number | string | null} a @param {number | string | null} b @param {boolean} down */
function compare(a, b, down) {
    if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1;
    const order = typeof a === 'number' && typeof b === 'number' ? a - b : String(a).localeCompare(String(b));
    return down ? -order : order;
}
