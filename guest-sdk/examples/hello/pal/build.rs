fn main() {
    trustvisor_pal::build::Layout::new().stack(16 << 10).param(16 << 10).emit();
}
