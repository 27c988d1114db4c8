// Jobber beside a Node worker, both on one Redis, both running the same binaries: how many jobs a second, and how long
// from the submission to the first instruction of the job when there is nothing else to do.
//
//   node bench.js JOBBER BINARIES [JOBS] [ROUNDS]     JOBBER: the release binary; BINARIES: where hello and clock are

const { execFileSync, spawn } = require('child_process');
const fs = require('fs');
const net = require('net');
const os = require('os');
const path = require('path');
const { Queue, QueueEvents, Worker } = require(process.env.BULLMQ || 'bullmq');

const CONCURRENCY = 2;
const SAMPLES = 300;
const NAME = 'my-job-queue';

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The value below which this part of the sorted values lies. */
function quantile(values, part) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))];
}

/** A worker as the original's: it starts the job's binary and gives back what that prints. */
function work(port, binaries) {
  const run = (job) =>
    new Promise((resolve, reject) => {
      const child = spawn(path.join(binaries, job.name), job.data);
      let [result, error] = ['', ''];
      child.stdout.on('data', (data) => (result += data));
      child.stderr.on('data', (data) => (error += data));
      child.on('error', reject);
      child.on('close', (code) =>
        code === 0 ? resolve({ success: true, result: result.trim() }) : reject(new Error(error || `exit code ${code}`)),
      );
    });
  new Worker(NAME, run, { connection: { host: '127.0.0.1', port }, concurrency: CONCURRENCY });
}

function freePort() {
  return new Promise((resolve) => {
    const server = net.createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

/** Starts a program for as long as `act` takes. */
async function beside(program, args, options, act) {
  const child = spawn(program, args, { stdio: 'ignore', ...options });
  const ended = new Promise((resolve) => child.on('exit', resolve));
  child.on('error', (error) => console.error(`${program}: ${error.message}`));
  try {
    return await act();
  } finally {
    child.kill('SIGTERM');
    await ended;
  }
}

/** Jobs a second of the worker that is there: all are submitted before it may begin. */
async function throughput(queue, jobs) {
  await queue.pause();
  for (let left = jobs; left > 0; left -= 1000) {
    await queue.addBulk(Array.from({ length: Math.min(left, 1000) }, () => ({ name: 'hello', data: [] })));
  }
  const before = await queue.getCompletedCount();
  const began = process.hrtime.bigint();
  await queue.resume();
  while ((await queue.getCompletedCount()) < before + jobs) await sleep(5);
  const rate = jobs / (Number(process.hrtime.bigint() - began) / 1e9);
  if ((await queue.getFailedCount()) > 0) throw new Error('jobs failed; try the binary by hand');
  return rate;
}

/** Microseconds from the submission to the job's first instruction, one job at a time. */
async function latency(queue, connection) {
  const events = new QueueEvents(NAME, { connection });
  await events.waitUntilReady();
  const took = [];
  for (let i = -20; i < SAMPLES; i += 1) {
    const began = (performance.timeOrigin + performance.now()) * 1000;
    const job = await queue.add('clock', []);
    const { result } = await job.waitUntilFinished(events, 60_000);
    // The first ones warm both up.
    if (i >= 0) took.push(Number(result) - began);
    await sleep(2 + Math.random() * 8);
  }
  await events.close();
  return took;
}

async function main(jobber, binaries, jobs, rounds) {
  const port = await freePort();
  const connection = { host: '127.0.0.1', port };
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'jobber-bench-'));
  const url = `redis://127.0.0.1:${port}`;
  const env = { ...process.env, JOBBER_QUEUE_URL: url };
  const redis = ['--port', port, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', dir];
  const node = [process.execPath, [__filename, '--worker', port, binaries], {}];
  const dev = ['dev', '--listen', '127.0.0.1:0', '--data-dir', path.join(dir, 'data'), '--jobs-dir', binaries];
  const ours = [jobber, [...dev, '--cores', CONCURRENCY], { env: { ...env, JOBBER_LOG: 'error' } }];
  const rates = { raw: [], jobber: [], node: [] };

  await beside('redis-server', redis.map(String), {}, async () => {
    const queue = new Queue(NAME, { connection });
    await queue.waitUntilReady();
    for (let round = 1; round <= rounds; round += 1) {
      const args = ['bench', '--binary', path.join(binaries, 'hello'), '--jobs', jobs, '--concurrency', CONCURRENCY];
      const said = execFileSync(jobber, [...args, '--rounds', 1].map(String), { env, encoding: 'utf8' });
      const [, raw, pipeline] = said.match(/raw (\d+)\/s, pipeline (\d+)\/s/).map(Number);
      const rate = await beside(node[0], node[1].map(String), node[2], () => throughput(queue, Math.min(jobs, 2000)));
      await queue.obliterate({ force: true });
      for (const [who, value] of Object.entries({ raw, jobber: pipeline, node: rate })) rates[who].push(value);
      console.log(
        `round ${round}: raw ${raw}/s, jobber ${pipeline}/s, node ${rate.toFixed(0)}/s: ` +
          `${(pipeline / raw).toFixed(2)} of raw, ${(pipeline / rate).toFixed(1)} times node`,
      );
    }
    const median = (who) => quantile(rates[who], 0.5);
    console.log(
      `medians of ${rounds} rounds, ${CONCURRENCY} at once: jobber ${(median('jobber') / median('raw')).toFixed(2)} of raw, ` +
        `${(median('jobber') / median('node')).toFixed(1)} times node`,
    );
    for (const [who, [program, args, options]] of [['jobber', ours], ['node', node]]) {
      const took = await beside(program, args.map(String), options, () => latency(queue, connection));
      const [p50, p99] = [0.5, 0.99].map((part) => (quantile(took, part) / 1000).toFixed(2));
      console.log(`latency of an idle ${who}: p50 ${p50} ms, p99 ${p99} ms (${SAMPLES} jobs, one at a time)`);
      await queue.obliterate({ force: true });
    }
    await queue.close();
  });
  fs.rmSync(dir, { recursive: true });
}

const args = process.argv.slice(2);
if (args[0] === '--worker') {
  work(Number(args[1]), args[2]);
} else if (args.length < 2) {
  console.error('usage: node bench.js JOBBER BINARIES [JOBS] [ROUNDS]');
  process.exit(2);
} else {
  main(path.resolve(args[0]), path.resolve(args[1]), Number(args[2] || 5000), Number(args[3] || 3)).then(
    () => process.exit(0),
    (error) => {
      console.error(error);
      process.exit(1);
    },
  );
}
