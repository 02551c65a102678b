fn main() {
    trustvisor_pal::build::Layout::new().stack(32 << 10).param(64 << 10).heap(256 << 10).emit();
}
