// What the first visit costs: bytes over the wire, and how long until something is to be seen.

import assert from 'node:assert/strict';

import { given, run, tell } from './browse.mjs';

const MOST = 100 * 1024;
/** A slow telephone. */
const THROTTLE = 4;

await run(async (browser) => {
    for (const rate of [1, THROTTLE]) {
        const context = await browser.newContext();
        const page = await context.newPage();
        const session = await context.newCDPSession(page);
        await session.send('Network.enable');
        await session.send('Emulation.setCPUThrottlingRate', { rate });
        const files = new Map();
        session.on('Network.responseReceived', ({ requestId, response }) => {
            const { url } = response;
            if (new URL(url).pathname.startsWith('/ui/')) files.set(requestId, { url, bytes: 0 });
        });
        session.on('Network.loadingFinished', ({ requestId, encodedDataLength }) => {
            if (files.has(requestId)) files.get(requestId).bytes = encodedDataLength;
        });
        await page.goto(`${given.base}/ui/`);
        await page.waitForSelector('.tile');
        await page.waitForTimeout(300);
        const all = [...files.values()];
        const bytes = all.reduce((sum, file) => sum + file.bytes, 0);
        const paint = await page.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime);
        tell(`${all.length} files, ${bytes} bytes with headers, first paint after ${Math.round(paint)} ms, `
            + `CPU divided by ${rate}`);
        assert.ok(all.length >= 5 && all.every((file) => file.bytes > 0), JSON.stringify(all));
        assert.ok(bytes <= MOST, `${bytes} bytes: ${JSON.stringify(all)}`);
        assert.ok(paint > 0, 'something is painted');
        await context.close();
    }
});
