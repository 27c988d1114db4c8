// node --test tests/ui: how output becomes lines, and which of them are kept.
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { LogLines, SseReader, plainOf, slice, widthOf, wrap } from '../../ui/lib/loglines.js';
import { parse, PLAIN } from '../../ui/lib/ansi.js';

const all = (log) => Array.from({ length: log.end - log.first }, (_, i) => log.at(log.first + i));
const shown = (log) => all(log).map((line) => (line.kind === 'output' ? plainOf(line) : `<${line.kind}>`));
const output = (text, stream = 'stdout', attempt = 1) => ({ type: 'output', attempt, stream, text });

test('lines that are divided between events join', () => {
    const log = new LogLines();
    for (const text of ['he', 'llo\nwor', 'ld', '\n', '\nend']) log.take(output(text));
    assert.deepEqual(shown(log), ['hello', 'world', '', 'end']);
    assert.deepEqual(all(log).map((line) => line.n), [1, 2, 3, 4]);
});

test('each stream has its own line and style', () => {
    const log = new LogLines();
    log.take(output('\x1b[31mout'));
    log.take(output('err\n', 'stderr'));
    log.take(output('put\nred\n'));
    log.take(output('plain\n', 'stderr'));
    assert.deepEqual(shown(log), ['output', 'err', 'red', 'plain']);
    assert.deepEqual(all(log).map((line) => line.style.fg), [-1, -1, 1, -1]);
});

test('an escape that is divided between events is whole', () => {
    const log = new LogLines();
    for (const text of ['\x1b[3', '1mred', '\n', 'x\n']) log.take(output(text));
    assert.deepEqual(shown(log), ['red', 'x']);
    assert.equal(all(log)[1].style.fg, 1);
});

test('a character that is divided between events is whole', () => {
    const log = new LogLines();
    const bytes = Buffer.from('é€\n');
    log.take({ ...output('\ufffd'), base64: bytes.subarray(0, 1).toString('base64') });
    log.take({ ...output('\ufffd\ufffd'), base64: bytes.subarray(1, 3).toString('base64') });
    log.take({ ...output('\ufffd\n'), base64: bytes.subarray(3).toString('base64') });
    log.take(output('ok\n'));
    assert.deepEqual(shown(log), ['é€', 'ok']);
});

test('the last lines are kept, and the dropped counted', () => {
    const log = new LogLines({ most: 10 });
    for (let i = 0; i < 10_005; i++) log.take(output(`${i}\n`));
    assert.equal(log.dropped, 9995);
    assert.equal(log.total, 10_005);
    assert.deepEqual(shown(log), ['9995', '9996', '9997', '9998', '9999', '10000', '10001', '10002', '10003', '10004']);
    assert.equal(log.at(log.first - 1), undefined);
    assert.equal(log.at(log.end), undefined);
});

test('the characters that are kept are bounded too', () => {
    const log = new LogLines({ most: 100, mostCharacters: 1000 });
    for (let i = 0; i < 50; i++) log.take(output(`${'x'.repeat(100)}\n`));
    assert.equal(log.end - log.first, 10);
});

test('an open line that was dropped goes on as a new one', () => {
    const log = new LogLines({ most: 3 });
    log.take(output('\x1b[31mbegin'));
    for (let i = 0; i < 5; i++) log.take(output('e\n', 'stderr'));
    log.take(output(' end\n'));
    assert.deepEqual(shown(log), ['e', 'e', ' end']);
    assert.equal(all(log)[2].style.fg, 1);
});

test('a line that is too long goes on in another, with its number and style', () => {
    const log = new LogLines({ longest: 100 });
    log.take(output(`\x1b[32m${'ab'.repeat(130)}\nnext\n`));
    const lines = all(log);
    assert.equal(lines.map(plainOf).join('|').replaceAll('|', ''), `${'ab'.repeat(130)}next`);
    assert.deepEqual(lines.map((line) => line.n), [1, 1, 1, 2]);
    assert.deepEqual(lines.map((line) => line.isMore), [false, true, true, false]);
    assert.ok(lines.slice(1).every((line) => line.style.fg === 2));
    const emoji = new LogLines({ longest: 99 });
    emoji.take(output('😀'.repeat(200)));
    assert.ok(all(emoji).every((line) => !plainOf(line).includes('\ufffd') && line.text.isWellFormed()));
    const divided = new LogLines({ longest: 100 });
    divided.take(output(`${'x'.repeat(97)}\x1b[31mred\n`));
    assert.deepEqual(shown(divided), ['x'.repeat(97), 'red']);
    assert.equal(parse(all(divided)[1].text, all(divided)[1].style)[0].style.fg, 1);
});

test('a progress bar stays one line', () => {
    const log = new LogLines({ longest: 100 });
    for (let i = 0; i <= 1000; i++) log.take(output(`\r\x1b[33m${i} of 1000`));
    log.take(output('\ndone\n'));
    assert.deepEqual(shown(log), ['1000 of 1000', 'done']);
    assert.equal(all(log)[1].style.fg, 3);
});

test('attempts and gaps stand between lines; what is told again does not', () => {
    const log = new LogLines();
    assert.ok(log.take({ type: 'attempt', attempt: 1, outcome: null }));
    log.take(output('\x1b[31mno end'));
    log.take({ type: 'gap', attempt: 1, stream: 'stdout', bytes: 5 });
    log.take(output('x\n'));
    const end = { type: 'attempt', attempt: 1, outcome: { kind: 'exit', code: 1 } };
    assert.ok(log.take(end));
    assert.ok(!log.take(end), 'told again after a reconnection');
    assert.ok(!log.take({ type: 'attempt', attempt: 1, outcome: null }));
    log.take({ type: 'attempt', attempt: 2, outcome: null });
    log.take(output('y\n', 'stdout', 2));
    assert.ok(!log.take({ type: 'state', state: 'active' }));
    assert.deepEqual(shown(log), ['<attempt>', 'no end', '<gap>', 'x', '<attempt>', '<attempt>', 'y']);
    assert.equal(log.missing, 5);
    assert.equal(all(log).at(-1).style, PLAIN, 'another attempt begins without colours');
});

test('rows are as wide as the columns', () => {
    assert.deepEqual(wrap('abcdefghij', 4), [0, 4, 8]);
    assert.deepEqual(wrap('', 4), [0]);
    assert.deepEqual(wrap('abcd', 4), [0]);
    assert.deepEqual(wrap('中文字', 4), [0, 2]);
    assert.deepEqual(wrap('a\tb', 4), [0, 1, 2]);
    assert.deepEqual(wrap('e\u0301e\u0301e\u0301', 2), [0, 4]);
    assert.equal(widthOf('a\tb'), 9);
    assert.equal(widthOf('中a'), 3);
    const runs = parse('ab\x1b[31mcdef', PLAIN);
    assert.deepEqual(slice(runs, 1, 4).map((run) => run.text), ['b', 'cd']);
    assert.deepEqual(slice(runs, 0, 2).map((run) => run.text), ['ab']);
});

test('events are read from pieces', () => {
    const text = ': heartbeat\n\nid: 1.0.0\nevent: attempt\ndata: {"a":1}\n\nid: end\r\nevent: state\r\ndata: x\r\ndata: y\r\n\r\n';
    for (let size = 1; size < text.length; size++) {
        const reader = new SseReader();
        const events = [];
        for (let at = 0; at < text.length; at += size) events.push(...reader.read(text.slice(at, at + size)));
        assert.deepEqual(events, [
            { id: '1.0.0', event: 'attempt', data: '{"a":1}' },
            { id: 'end', event: 'state', data: 'x\ny' },
        ], `pieces of ${size}`);
    }
});

test('100,000 coloured lines are taken in little time', () => {
    const log = new LogLines();
    let text = '';
    // Time on a core: other tests run beside this one.
    const begin = process.cpuUsage();
    for (let i = 0; i < 100_000; i++) {
        text += `\x1b[1;32mline\x1b[0m ${i} \x1b[38;5;${i % 256}mcolour\x1b[0m\n`;
        if (text.length > 60_000) {
            log.take(output(text));
            text = '';
        }
    }
    log.take(output(text));
    assert.equal(log.total, 100_000);
    assert.equal(log.dropped, 90_000);
    assert.ok(process.cpuUsage(begin).user / 1000 < 3000);
});
