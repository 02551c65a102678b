#![cfg_attr(fuzzing, no_main)]

fuzz::target!(verify_event_log);
