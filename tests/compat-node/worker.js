// A worker as the original's: it takes a job's data for the arguments. Prints one JSON line for each job and ends after
// as many as it was told.
//
//   node worker.js PORT JOBS [QUEUE [cluster]]

const { Worker, connection, QUEUE } = require('./bull');

let left = Number(process.argv[3]);

const worker = new Worker(
  process.argv[4] || QUEUE,
  async (job) => {
    console.log(JSON.stringify({ id: job.id, name: job.name, data: job.data, attempts: job.opts.attempts }));
    return { success: true, result: job.data.join(' ') };
  },
  { connection },
);

worker.on('completed', async () => {
  left -= 1;
  if (left === 0) {
    await worker.close();
    process.exit(0);
  }
});
