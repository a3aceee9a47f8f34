/* A few threads that share out the parts of one job at a time. */
#ifndef EMBER_THREADS_H
#define EMBER_THREADS_H

typedef struct ember_threads ember_threads;

/* Starts count - 1 threads beside the caller's; NULL when there is no memory. Where the system
 * gives fewer, the job is done by fewer; in a forked process, which has none of them, by the
 * caller's alone. */
ember_threads *threads_start(int count);
void threads_stop(ember_threads *threads);
int threads_count(const ember_threads *threads);

/* Runs work(context, first, end) over parts of 0..count-1, and returns when all are done. How the
 * parts are cut must not change what is computed. */
void threads_run(ember_threads *threads, int count, void (*work)(void *context, int first, int end),
                 void *context);

#endif
