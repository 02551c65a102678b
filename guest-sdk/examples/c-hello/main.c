/* An application in C with a PAL: the S of the example hello, called from here, and what its calls can go wrong with.
 *
 *     gcc -O2 -static -DPAL='"hello.pal"' -Iguest-sdk/c main.c libtrustvisor_c.a -o c-hello
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "trustvisor.h"

/* The image of S, as part of this program. */
__asm__(".section .rodata\n"
        ".balign 16\n"
        "image: .incbin \"" PAL "\"\n"
        "image_end: .previous\n");
extern const unsigned char image[] __asm__("image");
extern const unsigned char image_end[] __asm__("image_end");

/* Entries of S, in the order of its list. */
enum { ADD, SUM, SET_SECRET, DIGEST };

static void fail(const char *what, int error) {
    fprintf(stderr, "c-hello: %s: %s (%s)\n", what, tv_error(error), tv_message());
    exit(1);
}

static void must(const char *what, int error) {
    if (error != TV_OK)
        fail(what, error);
}

static void must_be(const char *what, int error, int wanted) {
    if (error != wanted) {
        fprintf(stderr, "c-hello: %s: %d instead of %d\n", what, error, wanted);
        exit(1);
    }
}

static void print(const char *what, const uint8_t *bytes, size_t length) {
    printf("c-hello: %s ", what);
    for (size_t i = 0; i < length; i++)
        printf("%02x", bytes[i]);
    putchar('\n');
}

static int child(const tv_pal *parents) {
    uint64_t value;
    struct tv_argument numbers[] = {tv_int(20), tv_int(22)};
    tv_pal *pal;

    must_be("the parent's PAL in a child", tv_call(parents, ADD, numbers, 2, &value), TV_NO_SUCH_PAL);
    must("a child registers", tv_register(image, (size_t)(image_end - image), &pal));
    must("a child calls", tv_call(pal, ADD, numbers, 2, &value));
    must("a child unregisters", tv_unregister(pal));
    return value == 42 ? 0 : 1;
}

int main(void) {
    size_t length = (size_t)(image_end - image);
    struct tv_info info;
    struct tv_pal_info s;
    struct tv_digests identity;
    tv_pal *pal;
    uint64_t value;
    uint8_t data[8192], digest[32];
    int status;

    must("asking TrustVisor", tv_get_info(&info));
    printf("c-hello: TrustVisor version %" PRIu32 ", %" PRIu64 " of %" PRIu64 " frames free\n", info.version,
           info.frames_free, info.frames_total);

    must("registering S", tv_register(image, length, &pal));
    must("asking about S", tv_get_pal_info(pal, &s));
    must("measuring S", tv_measure(image, length, &identity));
    must_be("the identity", memcmp(&s.measurement, &identity, sizeof identity), 0);
    print("registered, sha256", identity.sha256, sizeof identity.sha256);

    struct tv_argument numbers[] = {tv_int(2), tv_int(3)};
    must("calling add", tv_call(pal, ADD, numbers, 2, &value));
    printf("c-hello: add(2, 3) = %" PRIu64 "\n", value);
    must_be("the sum", value == 5, 1);

    uint64_t sum = 0;
    for (size_t i = 0; i < sizeof data; i++)
        sum += data[i] = (uint8_t)(i * 7);
    struct tv_argument bytes[] = {tv_in(data, sizeof data)};
    must("calling sum", tv_call(pal, SUM, bytes, 1, &value));
    must_be("the sum of the bytes", value == sum, 1);

    struct tv_argument seed[] = {tv_int(42)};
    must("calling set_secret", tv_call(pal, SET_SECRET, seed, 1, NULL));
    struct tv_argument out[] = {tv_out(digest, sizeof digest)};
    must("calling digest", tv_call(pal, DIGEST, out, 1, &value));
    must_be("the digest's length", value == sizeof digest, 1);
    print("S keeps a secret whose sha256 is", digest, sizeof digest);

    /* What is wrong is an error, and S lives. */
    must_be("other arguments", tv_call(pal, ADD, bytes, 1, &value), TV_SIGNATURE);
    must_be("too many arguments", tv_call(pal, ADD, numbers, 7, &value), TV_SIGNATURE);
    must_be("no such entry", tv_call(pal, 4, NULL, 0, &value), TV_SIGNATURE);
    struct tv_argument nowhere[] = {tv_in(NULL, 1)};
    must_be("a buffer that is NULL", tv_call(pal, SUM, nowhere, 1, &value), TV_NULL);
    uint8_t *large = calloc(1, 1 << 20);
    struct tv_argument megabyte[] = {tv_in(large, 1 << 20)};
    must_be("a buffer that does not fit", tv_call(pal, SUM, megabyte, 1, &value), TV_TOO_LARGE);
    must_be("what it needs", tv_detail() == 1 << 20, 1);
    free(large);
    tv_pal *none = NULL;
    must_be("no image", tv_register("no image", 8, &none), TV_IMAGE);
    must_be("nothing was registered", none == NULL, 1);

    pid_t pid = fork();
    if (pid == 0)
        _exit(child(pal));
    must_be("a child", waitpid(pid, &status, 0) == pid && status == 0, 1);

    uint8_t nonce[32] = {1, 2, 3};
    char *evidence;
    must("calling add, attested", tv_call_attested(pal, ADD, numbers, 2, nonce, &value));
    must_be("the attested sum", value == 5, 1);
    uint8_t report[512];
    size_t room = 16;
    must_be("a report without room", tv_call_report(pal, 1, 1, report, &room), TV_NO_ROOM);
    room = sizeof report;
    must("a report", tv_call_report(pal, 1, 1, report, &room));
    if ((info.flags & TV_NO_HARDWARE_TPM) == 0) {
        must("evidence", tv_call_evidence(pal, ADD, nonce, &evidence));
        must_be("the evidence", strncmp(evidence, "{\n  \"version\": 1,", 17), 0);
        printf("c-hello: evidence of %zu bytes\n", strlen(evidence));
        tv_free(evidence);
    }

    must("wiping S", tv_abort(pal));
    must_be("S after it", tv_call(pal, ADD, numbers, 2, &value), TV_NO_SUCH_PAL);
    must_be("unregistering what is gone", tv_unregister(pal), TV_NO_SUCH_PAL);
    must("registering S again", tv_register(image, length, &pal));
    must("unregistering S", tv_unregister(pal));
    must("collecting", tv_collect(&value));
    puts("c-hello: ok");
    return 0;
}
