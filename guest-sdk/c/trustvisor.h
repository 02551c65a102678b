/* TrustVisor's SDK for applications in C. Link libtrustvisor_c.a (`cargo build -p trustvisor-c --release`) and -lpthread -ldl -lm.
 *
 * An application registers the image of a PAL (S), which `trustvisor image` has made, and calls its entries by their index: the order in
 * which S lists them. What an entry takes is in its image, and a call with other arguments is refused (TV_SIGNATURE).
 *
 * Every function that can fail returns 0 (TV_OK) or an error: above 0 what TrustVisor answered, below 0 what the SDK found. What it would
 * write is written only when it returns 0. No function aborts, and none keeps a pointer that it was given, but for what it says.
 * All functions may be called by any thread. While one thread is in S, others get TV_BUSY: they may wait and try again.
 *
 * A PAL belongs to the process that registered it. In a forked child calls answer TV_NO_SUCH_PAL: the child registers its own, and frees
 * the copy of its parent's by tv_unregister, which does not concern the parent's. After execve nothing is left; TrustVisor wipes the PAL
 * when two tv_collect, 10 s apart, find no owner. A signal handler may interrupt a call; it must not call the same PAL (TV_BUSY).
 */
#ifndef TRUSTVISOR_H
#define TRUSTVISOR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum tv_error {
    TV_OK = 0,
    TV_UNKNOWN_CALL = 1,   /* this TrustVisor has no such call */
    TV_BAD_CALLER = 2,     /* not in 64-bit user mode with interrupts enabled */
    TV_BAD_ADDRESS = 3,    /* tv_detail(): an address that is not ordinary memory of this process */
    TV_BAD_IMAGE = 4,
    TV_BAD_ARGUMENT = 5,
    TV_NO_MEMORY = 6,      /* TrustVisor's pool is full */
    TV_TOO_MANY = 7,       /* as many PALs are registered as there can be */
    TV_NO_SUCH_PAL = 8,    /* gone, or another process's: nothing was called */
    TV_BUSY = 9,           /* another call is in S: nothing was called, try again */
    TV_FAULTED = 10,       /* S died of this call. tv_detail(): the exception's vector (0: its heap is full, 1: it panicked, 6: invalid
                              instruction, 14: no address of its own, or its stack is full), or 100h and the intercept's code */
    TV_LOST = 11,          /* S was wiped in the middle of this call */
    TV_NO_PROGRESS = 12,   /* tv_detail(): an address whose page does not stay in memory */
    TV_TOO_LARGE = 13,     /* the buffers do not fit into S's parameter section */
    TV_UNSUPPORTED = 14,
    TV_DOES_NOT_OPEN = 15,
    TV_NOT_KEPT = 16,

    TV_NOT_PRESENT = -1,   /* TrustVisor does not run here */
    TV_VERSION = -2,       /* it speaks another version of the interface. tv_detail(): which */
    TV_OWNER_PAGE = -3,    /* no page for the handle: mmap, madvise or mlock failed. tv_detail(): errno */
    TV_IMAGE = -4,         /* not a PAL image */
    TV_SIGNATURE = -5,     /* the entry takes other arguments, or there is no such entry */
    TV_NULL = -6,          /* a pointer that must not be is NULL */
    TV_NO_TPM = -7,        /* there is no hardware TPM */
    TV_TPM = -8,           /* the TPM, its device or its attestation key failed (tv_message()) */
    TV_QUOTING = -9,       /* the quoting PAL does not sign this */
    TV_NO_ROOM = -10,      /* tv_detail(): how many bytes the result needs */
    TV_OTHER = -100        /* see tv_message() */
};

/* A sentence in English about an error; a constant. */
const char *tv_error(int error);

/* What this thread's last error was about, a number (see tv_error above), and in words. The text is good until this thread's next call. */
uint64_t tv_detail(void);
const char *tv_message(void);

/* SHA-1 and SHA-256 of the same. */
struct tv_digests {
    uint8_t sha1[20];
    uint8_t sha256[32];
};

struct tv_info {
    uint32_t version;         /* of the interface */
    uint32_t flags;           /* TV_DYNAMIC_LAUNCH and so on */
    uint64_t frames_total;    /* pages of 4 KiB in the pool from which PALs are made */
    uint64_t frames_free;
    uint64_t pals;            /* registered, of all processes */
    uint64_t reserve_base;    /* TrustVisor's memory: physical address, bytes */
    uint64_t reserve_size;
    struct tv_digests pcr17;  /* of the hardware TPM, after the launch; zero where there is none */
    struct tv_digests pcr18;
    uint32_t root;            /* what became of the root, on which sealed data depends: abi::RootState */
    uint32_t counters;        /* and of the counters: abi::CountersState */
};
#define TV_DYNAMIC_LAUNCH 1u
#define TV_DMA_UNPROTECTED 2u
#define TV_NO_HARDWARE_TPM 4u
#define TV_TPM_1_2 8u

int tv_get_info(struct tv_info *info);

/* The identity that a PAL of this image (`length` bytes) has: its micro-PCR 0. Needs no TrustVisor. */
int tv_measure(const void *image, size_t length, struct tv_digests *digests);

/* Lets TrustVisor look for PALs whose process is gone; `*freed` (may be NULL) is how many it wiped. A PAL is wiped when two looks, at least
 * 10 s apart, find no owner. */
int tv_collect(uint64_t *freed);

/* A registered PAL. */
typedef struct tv_pal tv_pal;

/* Registers an image of `length` bytes, which is copied. `*pal` is the caller's, to be given to tv_unregister. */
int tv_register(const void *image, size_t length, tv_pal **pal);

/* Wipes S and frees `pal` (NULL: nothing happens), whatever it returns. No other thread may use it any more. */
int tv_unregister(tv_pal *pal);

/* Wipes S even if a call is in it that will not be gone on with (left by longjmp, or by a thread that hangs). `pal` stays, until it is
 * unregistered, and answers TV_NO_SUCH_PAL. */
int tv_abort(tv_pal *pal);

struct tv_pal_info {
    struct tv_digests measurement;
    uint64_t pages;           /* of 4 KiB, that S has */
    uint64_t calls;           /* so far */
};

int tv_get_pal_info(const tv_pal *pal, struct tv_pal_info *info);

/* An argument. An integer takes one of a call's six registers, a buffer two. */
enum tv_kind { TV_KIND_INT = 1, TV_KIND_IN = 2, TV_KIND_OUT = 3, TV_KIND_IN_OUT = 4 };

struct tv_argument {
    enum tv_kind kind;
    uint64_t value;           /* of an integer; signed ones are extended */
    void *buffer;             /* of `length` bytes; may be NULL if that is 0 */
    size_t length;
};

static inline struct tv_argument tv_int(uint64_t value) {
    struct tv_argument argument = {TV_KIND_INT, value, NULL, 0};
    return argument;
}

/* Copied to S. */
static inline struct tv_argument tv_in(const void *buffer, size_t length) {
    struct tv_argument argument = {TV_KIND_IN, 0, (void *)buffer, length};
    return argument;
}

/* Copied from S, which finds it zeroed. All of it is written when the call returns 0, and perhaps a part if it does not. */
static inline struct tv_argument tv_out(void *buffer, size_t length) {
    struct tv_argument argument = {TV_KIND_OUT, 0, buffer, length};
    return argument;
}

/* Copied to S and back. */
static inline struct tv_argument tv_in_out(void *buffer, size_t length) {
    struct tv_argument argument = {TV_KIND_IN_OUT, 0, buffer, length};
    return argument;
}

/* Calls an entry with `count` arguments; `*value` (may be NULL) is what S returned. */
int tv_call(const tv_pal *pal, uint16_t entry, const struct tv_argument *arguments, size_t count, uint64_t *value);

/* The same, and TrustVisor hashes what S was given and what it answered, for a verifier whose nonce this is. */
int tv_call_attested(const tv_pal *pal, uint16_t entry, const struct tv_argument *arguments, size_t count,
                     const uint8_t nonce[32], uint64_t *value);

/* Evidence of the last attested call, of this entry and with this nonce, for `trustvisor-verify`: JSON, ends with a zero byte. It is the
 * caller's, to be given to tv_free. Needs the TPM's device. */
int tv_call_evidence(const tv_pal *pal, uint16_t entry, const uint8_t nonce[32], char **evidence);

/* Evidence of a report of S (`trustvisor_pal::quote::report`, key P-256) on its identity, with `nonce_length` bytes of nonce. */
int tv_report_evidence(const tv_pal *pal, const void *report, size_t report_length, const void *nonce, size_t nonce_length,
                       char **evidence);

/* The last attested call and a report on it, as TrustVisor wrote them (abi::quote): on the PCRs whose bits are set in `pcrs` (bit 0 must be),
 * for a key (0: RSA, 1: P-256, 2: RSA with SHA-1). `*length` is the room in bytes, and then how many were written. */
int tv_call_report(const tv_pal *pal, uint8_t pcrs, uint8_t key, void *report, size_t *length);

/* Frees evidence (NULL: nothing happens). */
void tv_free(char *evidence);

#ifdef __cplusplus
}
#endif

#endif
