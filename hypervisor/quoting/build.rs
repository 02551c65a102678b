fn main() {
    trustvisor_pal::build::Layout::new().stack(64 << 10).param(4 << 10).emit();
}
