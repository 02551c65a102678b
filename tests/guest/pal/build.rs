fn main() {
    // More than two of the runtime's 64 KiB slices, so that long copies are interrupted.
    trustvisor_pal::build::Layout::new().stack(8 << 10).param(160 << 10).emit();
}
