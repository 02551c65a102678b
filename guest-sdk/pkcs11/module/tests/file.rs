//! The token's file: through crashes, other processes, forks and other users.

mod common;

use common::*;
use cryptoki_sys::*;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

fn set(name: &str, value: &str) {
    // SAFETY: the tests' processes have one thread.
    unsafe { std::env::set_var(name, value) };
}

/// A token with the object `old`, of no process's any more.
fn with_old() {
    let status = child(|| {
        let session = ready();
        assert_eq!(create(session, "old", CK_TRUE), CKR_OK);
        finalize();
    });
    assert_eq!(status, 0);
}

/// How many objects `old` and `new` somebody finds who comes now, and can add to.
fn look() -> (usize, usize) {
    initialize();
    let session = open(0);
    assert_eq!(login(session, CKU_USER, USER), CKR_OK);
    let found = (count(session, "old"), count(session, "new"));
    assert_eq!(create(session, "afterwards", CK_TRUE), CKR_OK);
    finalize();
    found
}

fn no_new_file(folder: &Path) -> bool {
    !folder.join("token-0.new").exists()
}

#[test]
fn a_crash_at_any_point_loses_nothing() {
    for (point, new) in [(1, 0), (2, 0), (3, 1), (4, 1)] {
        alone(|folder| {
            with_old();
            let status = child(|| {
                initialize();
                let session = open(0);
                assert_eq!(login(session, CKU_USER, USER), CKR_OK);
                set("TRUSTVISOR_END_AT", &point.to_string());
                create(session, "new", CK_TRUE);
            });
            assert_eq!(status, 99);
            assert_eq!(look(), (1, new), "after point {point}");
            assert!(no_new_file(folder));
        });
    }
}

#[test]
fn a_crash_in_the_first_initialisation_loses_nothing() {
    for (point, initialised) in [(1, false), (2, false), (3, true), (4, true)] {
        alone(|_| {
            let status = child(|| {
                initialize();
                set("TRUSTVISOR_END_AT", &point.to_string());
                init_token(0, "first");
            });
            assert_eq!(status, 99);
            initialize();
            let mut info = CK_TOKEN_INFO::default();
            assert_eq!(c!(C_GetTokenInfo(0, &mut info)), CKR_OK);
            assert_eq!(info.flags & CKF_TOKEN_INITIALIZED != 0, initialised, "after point {point}");
            assert_eq!(init_token(0, "second"), CKR_OK);
        });
    }
}

#[test]
fn who_is_running_finishes_what_another_process_began() {
    for point in [2, 3] {
        alone(|folder| {
            let session = ready();
            let status = child(|| {
                initialize();
                let session = open(0);
                assert_eq!(login(session, CKU_USER, USER), CKR_OK);
                set("TRUSTVISOR_END_AT", &point.to_string());
                create(session, "new", CK_TRUE);
            });
            assert_eq!(status, 99);
            assert_eq!(create(session, "mine", CK_TRUE), CKR_OK);
            assert_eq!((count(session, "new"), count(session, "mine")), (point - 2, 1));
            assert!(no_new_file(folder));
        });
    }
}

#[test]
fn an_old_file_is_refused() {
    alone(|folder| {
        with_old();
        let file = folder.join("token-0");
        let old = fs::read(&file).unwrap();
        assert_eq!(look(), (1, 0));
        let present = fs::read(&file).unwrap();
        let mut info = CK_TOKEN_INFO::default();
        for (bytes, rv) in [(&old[..], CKR_TOKEN_NOT_RECOGNIZED), (b"junk", CKR_TOKEN_NOT_RECOGNIZED)] {
            fs::write(&file, bytes).unwrap();
            initialize();
            assert_eq!(c!(C_GetTokenInfo(0, &mut info)), rv);
            let mut session = 0;
            assert_eq!(c!(C_OpenSession(0, 6, std::ptr::null_mut(), None, &mut session)), rv);
            assert_eq!(init_token(0, "new"), rv);
            finalize();
        }
        fs::write(&file, present).unwrap();
        assert_eq!(look(), (1, 0));
    });
}

#[test]
fn processes_see_each_other_s_changes() {
    alone(|_| {
        let session = ready();
        let add = || {
            let status = child(|| {
                initialize();
                let session = open(0);
                assert_eq!(login(session, CKU_USER, USER), CKR_OK);
                assert_eq!(create(session, "theirs", CK_TRUE), CKR_OK);
            });
            assert_eq!(status, 0);
        };
        for round in 1..4 {
            add();
            assert_eq!(count(session, "theirs"), round);
            assert_eq!(create(session, "mine", CK_TRUE), CKR_OK);
            assert_eq!((count(session, "theirs"), count(session, "mine")), (round, round));
        }
    });
}

#[test]
fn many_processes_add_at_once() {
    alone(|_| {
        with_old();
        let children: Vec<_> = (0..6)
            .map(|_| {
                // SAFETY: the child does its work and leaves by `_exit`.
                let pid = unsafe { libc::fork() };
                if pid == 0 {
                    initialize();
                    let session = open(0);
                    let well = login(session, CKU_USER, USER) == CKR_OK
                        && (0..5).all(|_| create(session, "new", CK_TRUE) == CKR_OK);
                    // SAFETY: runs nothing of the parent's.
                    unsafe { libc::_exit(i32::from(!well)) };
                }
                pid
            })
            .collect();
        for pid in children {
            let mut status = -1;
            // SAFETY: waits for a child.
            unsafe { libc::waitpid(pid, &mut status, 0) };
            assert_eq!(status, 0);
        }
        assert_eq!(look(), (1, 30));
    });
}

#[test]
fn a_child_begins_anew_and_its_parent_goes_on() {
    alone(|_| {
        let session = ready();
        let key = aes(session);
        let mut ecb = mechanism(CKM_AES_ECB);
        assert_eq!(c!(C_EncryptInit(session, &mut ecb, key)), CKR_OK);
        let status = child(|| {
            assert_eq!(c!(C_Logout(session)), CKR_CRYPTOKI_NOT_INITIALIZED);
            initialize();
            assert_eq!(c!(C_Logout(session)), CKR_SESSION_HANDLE_INVALID);
            let mine = open(0);
            assert_eq!(login(mine, CKU_USER, USER), CKR_OK);
            assert_eq!(create(mine, "child", CK_TRUE), CKR_OK);
            let status = child(|| assert_eq!(c!(C_Logout(mine)), CKR_CRYPTOKI_NOT_INITIALIZED));
            assert_eq!(status, 0);
            finalize();
        });
        assert_eq!(status, 0);
        let (mut out, mut length) = ([0u8; 16], 16);
        assert_eq!(c!(C_Encrypt(session, mutable(&[1; 16]), 16, out.as_mut_ptr(), &mut length)), CKR_OK);
        assert_eq!(count(session, "child"), 1);
    });
}

#[test]
fn a_fork_while_other_threads_call_leaves_no_lock_behind() {
    alone(|_| {
        let session = ready();
        let key = aes(session);
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut ecb = mechanism(CKM_AES_ECB);
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_eq!(c!(C_EncryptInit(session, &mut ecb, key)), CKR_OK);
                    assert_eq!(c!(C_EncryptInit(session, std::ptr::null_mut(), 0)), CKR_OK);
                }
            });
            let children = (0..20).map(|_| {
                child(|| {
                    // SAFETY: ends the child if it hangs.
                    unsafe { libc::alarm(60) };
                    initialize();
                    let mut info = CK_TOKEN_INFO::default();
                    assert_eq!(c!(C_GetTokenInfo(0, &mut info)), CKR_OK);
                })
            });
            let well = children.collect::<Vec<_>>();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(well, [0; 20]);
        });
    });
}

/// Becomes nobody, for whom the tokens' folder is not for writing.
fn nobody() {
    // SAFETY: changes this process only.
    assert_eq!(unsafe { libc::setgid(65534) }, 0);
    // SAFETY: the same.
    assert_eq!(unsafe { libc::setuid(65534) }, 0);
}

/// Whether these tests may become somebody else at all.
fn root() -> bool {
    // SAFETY: asks.
    unsafe { libc::geteuid() == 0 }
}

fn counters_elsewhere(folder: &Path) -> tempfile::TempDir {
    let counters = tempfile::tempdir().unwrap();
    fs::set_permissions(counters.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    set("TRUSTVISOR_COUNTERS", counters.path().to_str().unwrap());
    counters
}

#[test]
fn a_child_uses_what_its_parent_could_read() {
    if !root() {
        return;
    }
    alone(|folder| {
        let counters = counters_elsewhere(folder);
        let session = ready();
        fs::set_permissions(counters.path().join("counters"), fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(create(session, "old", CK_TRUE), CKR_OK);
        for mode in [0o755, 0o700] {
            fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
            let status = child(|| {
                nobody();
                initialize();
                let mut info = CK_TOKEN_INFO::default();
                assert_eq!(c!(C_GetTokenInfo(0, &mut info)), CKR_OK);
                assert_ne!(info.flags & CKF_WRITE_PROTECTED, 0);
                let session = open(0);
                // After these the right one would have something kept.
                for _ in 0..5 {
                    assert_eq!(login(session, CKU_USER, b"4321"), CKR_PIN_INCORRECT);
                }
                assert_eq!(login(session, CKU_USER, USER), CKR_OK);
                assert_eq!(count(session, "old"), 1);
                assert_eq!(create(session, "mine", CK_FALSE), CKR_OK);
                assert_eq!(create(session, "new", CK_TRUE), CKR_TOKEN_WRITE_PROTECTED);
                assert_eq!((count(session, "mine"), count(session, "new")), (1, 0));
            });
            assert_eq!(status, 0, "mode {mode:o}");
        }
        assert_eq!(count(session, "old"), 1);
    });
}

#[test]
fn a_read_only_folder_is_for_reading() {
    if !root() {
        return;
    }
    alone(|folder| {
        let counters = counters_elsewhere(folder);
        with_old();
        fs::set_permissions(counters.path().join("counters"), fs::Permissions::from_mode(0o666)).unwrap();
        fs::set_permissions(folder.join("token-0"), fs::Permissions::from_mode(0o644)).unwrap();
        let status = child(|| {
            nobody();
            initialize();
            let session = open(0);
            assert_eq!(login(session, CKU_USER, USER), CKR_OK);
            assert_eq!(count(session, "old"), 1);
            assert_eq!(create(session, "new", CK_TRUE), CKR_TOKEN_WRITE_PROTECTED);
        });
        assert_eq!(status, 0);
        assert_eq!(look(), (1, 0));
        // A new file is whose the old one was.
        let file = fs::metadata(folder.join("token-0")).unwrap();
        assert_eq!((file.mode() & 0o777, file.uid()), (0o644, 0));
    });
}
