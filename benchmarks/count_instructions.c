/* A plugin for QEMU 7 to 9 (docs/devel/tcg-plugins.rst there) that counts the instructions which a
 * program runs. Declared here is the little of its interface that this takes.
 *
 *     cc -shared -fPIC count_instructions.c -o count.so
 *     qemu-arm -plugin ./count.so,out=FILE PROGRAM
 *
 * A translated block counts as a whole when it is entered. One that a fault breaks off is counted
 * in full, which is rare; a repeated string instruction does not exist on ARM. */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PLUGIN_API __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
                                           void (*translated)(qemu_plugin_id_t,
                                                              struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block,
                                          void (*entered)(unsigned, void *), int registers,
                                          void *given);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, void (*ended)(qemu_plugin_id_t, void *),
                                    void *given);

PLUGIN_API int qemu_plugin_version = 1;
PLUGIN_API int qemu_plugin_install(qemu_plugin_id_t id, const void *about, int count,
                                   char **arguments);

static uint64_t instructions;
static char *out;

static void entered(unsigned processor, void *length) {
    (void)processor;
    instructions += (uintptr_t)length;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
    (void)id;
    enum { READS_NO_REGISTERS = 0 };
    qemu_plugin_register_vcpu_tb_exec_cb(block, entered, READS_NO_REGISTERS,
                                         (void *)qemu_plugin_tb_n_insns(block));
}

static void ended(qemu_plugin_id_t id, void *given) {
    (void)id, (void)given;
    FILE *file = fopen(out, "w");
    if (!file || fprintf(file, "%" PRIu64 "\n", instructions) < 0 || fclose(file)) abort();
}

int qemu_plugin_install(qemu_plugin_id_t id, const void *about, int count, char **arguments) {
    (void)about;
    if (count != 1 || strncmp(arguments[0], "out=", 4)) return 1;
    out = strdup(arguments[0] + 4);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return !out;
}
