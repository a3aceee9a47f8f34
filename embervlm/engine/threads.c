#include "threads.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

struct ember_threads {
    pid_t owner; /* the process that has the threads: a forked one has none of them */
    pthread_mutex_t lock;
    pthread_cond_t begun, done;
    pthread_t *handles;
    int started, stop, job, waiting_for, count, part;
    atomic_int next;
    void (*work)(void *, int, int);
    void *context;
};

static void do_parts(ember_threads *t) {
    for (;;) {
        int first = atomic_fetch_add(&t->next, t->part);
        if (first >= t->count) return;
        t->work(t->context, first, first + t->part < t->count ? first + t->part : t->count);
    }
}

static void *wait_and_work(void *given) {
    ember_threads *t = given;
    int seen = 0;
    pthread_mutex_lock(&t->lock);
    for (;;) {
        while (!t->stop && t->job == seen) pthread_cond_wait(&t->begun, &t->lock);
        if (t->stop) break;
        seen = t->job;
        pthread_mutex_unlock(&t->lock);
        do_parts(t);
        pthread_mutex_lock(&t->lock);
        if (!--t->waiting_for) pthread_cond_signal(&t->done);
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

ember_threads *threads_start(int count) {
    ember_threads *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    t->owner = getpid();
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->begun, NULL);
    pthread_cond_init(&t->done, NULL);
    t->handles = calloc(count > 1 ? (size_t)count : 1, sizeof *t->handles);
    while (t->handles && t->started < count - 1 &&
           !pthread_create(&t->handles[t->started], NULL, wait_and_work, t))
        t->started++;
    return t;
}

int threads_count(const ember_threads *t) { return t->started + 1; }

void threads_stop(ember_threads *t) {
    if (!t) return;
    /* In a forked process there is nobody to join, and the lock may be held for ever. */
    if (t->owner == getpid()) {
        pthread_mutex_lock(&t->lock);
        t->stop = 1;
        pthread_cond_broadcast(&t->begun);
        pthread_mutex_unlock(&t->lock);
        for (int i = 0; i < t->started; i++) pthread_join(t->handles[i], NULL);
        pthread_cond_destroy(&t->begun);
        pthread_cond_destroy(&t->done);
        pthread_mutex_destroy(&t->lock);
    }
    free(t->handles);
    free(t);
}

void threads_run(ember_threads *t, int count, void (*work)(void *, int, int), void *context) {
    if (!t->started || count < 2 || t->owner != getpid()) {
        work(context, 0, count);
        return;
    }
    pthread_mutex_lock(&t->lock);
    t->work = work, t->context = context, t->count = count;
    t->part = (count + 4 * (t->started + 1) - 1) / (4 * (t->started + 1));
    atomic_store(&t->next, 0);
    t->waiting_for = t->started;
    t->job++;
    pthread_cond_broadcast(&t->begun);
    pthread_mutex_unlock(&t->lock);
    do_parts(t);
    pthread_mutex_lock(&t->lock);
    while (t->waiting_for) pthread_cond_wait(&t->done, &t->lock);
    pthread_mutex_unlock(&t->lock);
}
