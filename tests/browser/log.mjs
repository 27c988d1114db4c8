// A long coloured log, watched while it is written over a connection that breaks: no line is lost, none comes twice.

import assert from 'node:assert/strict';

import { eventually, given, isLong, open, run, submit, tell } from './browse.mjs';
import { cutting } from './proxies.mjs';

const LINES = isLong ? 100_000 : 20_000;
const CUTS = 3;
/** Longer than the longest event, which must have come whole for the page to go on after it. */
const CUT_AFTER = 220_000;
const MOST_NODES = 1500;

await run(async () => {
    const job = await submit('colours', { arguments: [String(LINES)] });
    const proxy = await cutting(given.base, { cuts: CUTS, after: CUT_AFTER });
    try {
        const page = await open(`/jobs/${job}?tab=log`, { base: proxy.base, expected: /ERR_|Failed to (load|fetch)/ });
        await page.context().grantPermissions(['clipboard-read', 'clipboard-write'], { origin: proxy.base });
        let resumed = 0;
        page.on('request', (request) => {
            if (request.url().includes('/logs') && request.headers()['last-event-id']) resumed++;
        });
        const lines = async () => {
            const [text] = await page.$$eval('#panel .muted span', (all) =>
                all.map((e) => e.textContent).filter((text) => / lines/.test(text)));
            return { text, total: Number(/^([\d\s,.’']+)/.exec(text ?? '')?.[1].replace(/\D/g, '') ?? 0) };
        };
        let most = 0;
        const said = await eventually('the end of the log', async () => {
            most = Math.max(most, await page.evaluate(() => document.querySelectorAll('*').length));
            const { text, total } = await lines();
            return text?.includes('complete') ? { text, total } : null;
        });
        tell(`${said.text}; most nodes ${most}; ${proxy.made()} cuts, resumed ${resumed} times`);
        assert.equal(proxy.made(), CUTS, 'the connection was cut');
        assert.ok(resumed >= 1, 'the page went on where it was');
        // Lines that came twice and a job that ran twice look alike on the page.
        const { attempts } = await (await fetch(`${given.base}/api/v1/jobs/${job}`)).json();
        assert.equal(said.total, LINES, `${said.text}; attempts: ${JSON.stringify(attempts.map((a) => a.report?.outcome))}`);
        assert.doesNotMatch(said.text, /missing/);
        assert.ok(most <= MOST_NODES, `${most} nodes`);
        const last = `line ${LINES - 1} colour ${(LINES - 1) % 6}`;
        assert.equal(await page.$$eval('.log-row', (rows, last) =>
            rows.filter((row) => row.textContent.includes(last) && row.checkVisibility()).length, last), 1);
        // What the page keeps goes without a gap to the end.
        await page.click('.log-tools button:text-is("Copy")');
        const kept = (await page.evaluate(() => navigator.clipboard.readText())).split('\n');
        const numbers = kept.filter((line) => line.startsWith('line ')).map((line) => Number(line.split(' ')[1]));
        assert.ok(numbers.length > 1000, `${numbers.length} lines`);
        assert.ok(numbers.every((n, i) => n === LINES - numbers.length + i), 'the lines go on one after the other');
    } finally {
        proxy.close();
    }
});
