// node --test tests/ui: what terminals' escapes become.
import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
    BOLD, DEFAULT, DIM, INVERSE, ITALIC, PLAIN, STRIKE, TRUE, UNDERLINE,
    advance, colours, contrast, parse, plain, readable, rgb, SURFACE,
} from '../../ui/lib/ansi.js';

const texts = (line, style = PLAIN) => parse(line, style).map((run) => run.text);
const only = (line) => {
    const runs = parse(line, PLAIN);
    assert.equal(runs.length, 1, JSON.stringify(runs));
    return runs[0].style;
};

test('plain text is one run, and an empty line none', () => {
    assert.deepEqual(parse('a <b>', PLAIN), [{ text: 'a <b>', style: PLAIN }]);
    assert.deepEqual(parse('', PLAIN), []);
    assert.deepEqual(texts('windows\r'), ['windows']);
});

test('the 16 colours, the 256 and true colour', () => {
    assert.equal(only('\x1b[31mx').fg, 1);
    assert.equal(only('\x1b[97mx').fg, 15);
    assert.equal(only('\x1b[44mx').bg, 4);
    assert.equal(only('\x1b[103mx').bg, 11);
    assert.equal(only('\x1b[38;5;208mx').fg, 208);
    assert.equal(only('\x1b[48;5;17mx').bg, 17);
    assert.equal(only('\x1b[38;2;1;2;3mx').fg, TRUE | 0x010203);
    assert.equal(only('\x1b[38:2::1:2:3mx').fg, TRUE | 0x010203);
    assert.equal(only('\x1b[38:2:1:2:3mx').fg, TRUE | 0x010203);
    assert.equal(only('\x1b[38:5:9mx').fg, 9);
    const both = only('\x1b[38;2;1;2;3;48;5;7;1mx');
    assert.deepEqual([both.fg, both.bg, both.flags], [TRUE | 0x010203, 7, BOLD]);
    assert.equal(only('\x1b[31;39mx').fg, DEFAULT);
    assert.equal(only('\x9b32mx').fg, 2, 'the 8-bit CSI');
});

test('fonts are turned on and off', () => {
    assert.equal(only('\x1b[1;2;3;4;7;9mx').flags, BOLD | DIM | ITALIC | UNDERLINE | INVERSE | STRIKE);
    assert.equal(only('\x1b[1;2;3;4;7;9m\x1b[22;23;24;27;29mx').flags, 0);
    assert.deepEqual(only('\x1b[1;31m\x1b[mx'), { ...PLAIN });
    assert.equal(only('\x1b[4:0mx').flags, 0);
    assert.equal(only('\x1b[4:3mx').flags, UNDERLINE);
});

test('runs end where the style changes, and equal neighbours join', () => {
    assert.deepEqual(texts('a\x1b[31mb\x1b[31mc\x1b[0md'), ['a', 'bc', 'd']);
});

test('the style goes on in the next line', () => {
    const next = advance('\x1b[1;32mgreen', PLAIN);
    assert.equal(parse('still', next)[0].style.fg, 2);
    assert.equal(advance('nothing', next), next);
    assert.equal(advance('\x1b[1;32m', next), next, 'an equal style is the same');
    assert.deepEqual(advance('\x1b[0m', next), { ...PLAIN });
    assert.equal(advance('\x1b[31mred\x1b[0m \x1b[34mblue', next).fg, 4);
    assert.equal(advance('\x1b]8;;https://x.org\x07a\x1b[0m', next).link, 'https://x.org', 'a reset does not end a link');
});

test('a carriage return writes over the line', () => {
    assert.equal(plain('10 %\r20 %\r100 %'), '100 %');
    assert.equal(plain('long text\rshort'), 'shorttext');
    assert.equal(plain('long text\r\x1b[Kshort'), 'short');
    assert.equal(plain('\x1b[2K\x1b[1Gone\x1b[2K\x1b[1Gtwo'), 'two');
    assert.equal(plain('ab\bc'), 'ac');
    assert.equal(plain('\b\b\bx'), 'x');
    const runs = parse('aaaa\r\x1b[31mbb', PLAIN);
    assert.deepEqual(runs.map((r) => [r.text, r.style.fg]), [['bb', 1], ['aa', DEFAULT]]);
});

test('only links over http and https are links', () => {
    const link = (url, end = '\x1b\\') => parse(`\x1b]8;;${url}${end}text\x1b]8;;${end}after`, PLAIN);
    assert.equal(link('https://example.org/a?b')[0].style.link, 'https://example.org/a?b');
    assert.equal(link('http://example.org', '\x07')[0].style.link, 'http://example.org');
    assert.equal(link('https://example.org')[1].style.link, '');
    for (const bad of ['javascript:alert(1)', 'data:text/html,x', ' https://x', 'file:///etc', '//x', 'https:javascript:x', 'https://']) {
        const runs = link(bad);
        assert.equal(runs.map((r) => r.text).join(''), 'textafter', bad);
        assert.ok(runs.every((r) => r.style.link === ''), bad);
    }
    assert.equal(only('\x1b]8;id=1;https://x.org\x07x').link, 'https://x.org');
});

test('every other escape is dropped', () => {
    for (const line of [
        'a\x1b[2Jb', 'a\x1b[10;20Hb', 'a\x1b[?25lb', 'a\x1b]0;title\x07b', 'a\x1b]52;c;aGk=\x1b\\b', 'a\x1bPq#1\x1b\\b',
        'a\x1b(Bb', 'a\x1b7b', 'a\x07b', 'a\x00b', 'a\x7fb', 'a\x85b', 'a\x1b[>4;1mb', 'a\x1b[1 qb', 'a\x9dtitle\x9cb',
    ]) assert.equal(plain(line), 'ab', JSON.stringify(line));
    assert.equal(plain('a\x1b'), 'a');
    assert.equal(plain('a\x1b[3'), 'a');
    assert.equal(plain('a\x1b]8;;http'), 'a');
    assert.equal(plain('tab\tstays'), 'tab\tstays');
    assert.deepEqual(parse('\x1b[>4;1mx', PLAIN)[0].style, PLAIN);
});

test('a hostile line takes no long time', () => {
    // Time on a core: other tests run beside this one.
    const begin = process.cpuUsage();
    for (const part of ['\x1b[', '\x1b]', '\x1b[1;', '\x1bP', '\x1b[0;;;;;;m', '\b', '\r']) plain(part.repeat(50_000));
    plain(`\x1b[${'1;'.repeat(50_000)}`);
    assert.ok(process.cpuUsage(begin).user / 1000 < 2000);
});

test('text can be read on its ground', () => {
    for (let fg = 0; fg < 256; fg++) {
        for (const bg of [DEFAULT, 0, 1, 7, 15, 21, 226]) {
            for (const flags of [0, DIM, INVERSE]) {
                const { color, background } = colours({ fg, bg, flags, link: '' });
                const number = (text, usual) => (text ? Number.parseInt(text.slice(1), 16) : usual);
                const ratio = contrast(number(color, 0xe6edf3), number(background, SURFACE));
                assert.ok(ratio >= 4.5, `${fg} on ${bg} ${flags}: ${ratio}`);
            }
        }
    }
    assert.equal(readable(0xffffff, SURFACE), 0xffffff);
    assert.equal(rgb(196, 0), 0xff0000);
    assert.equal(rgb(232, 0), 0x080808);
    assert.equal(rgb(255, 0), 0xeeeeee);
});
