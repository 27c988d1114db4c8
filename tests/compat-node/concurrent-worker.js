// A worker that runs eight jobs at once. Prints how many ran at the same time at most, and ends after as many as it was told.
//
//   node concurrent-worker.js PORT JOBS [QUEUE]

const { Worker, connection, QUEUE } = require('./bull');

let left = Number(process.argv[3]);
let running = 0;
let most = 0;

const worker = new Worker(
  process.argv[4] || QUEUE,
  async () => {
    running += 1;
    most = Math.max(most, running);
    await new Promise((resolve) => setTimeout(resolve, 100));
    running -= 1;
    return { success: true, result: null };
  },
  { connection, concurrency: 8 },
);

worker.on('completed', async () => {
  left -= 1;
  if (left === 0) {
    console.log(JSON.stringify({ most }));
    await worker.close();
    process.exit(0);
  }
});
