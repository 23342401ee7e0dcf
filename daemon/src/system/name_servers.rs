//! Who is asked for names.

/// Returns the name servers that the system asks, as its configuration writes them; none where it does not say.
pub fn name_servers() -> Vec<String> {
    #[cfg(unix)]
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    #[cfg(not(unix))]
    let text = String::new();
    read(&text)
}

fn read(text: &str) -> Vec<String> {
    /// The C library asks no more.
    const MOST: usize = 3;
    let words = text.lines().map(|it| it.split_whitespace());
    let named = words.filter_map(|mut it| (it.next() == Some("nameserver")).then(|| it.next())?);
    named.take(MOST).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_options_are_no_name_servers() {
        let text = "# nameserver 1.1.1.1\nsearch corp\nnameserver 10.0.0.1 # main\n nameserver\t::1\nnameserver\n";
        assert_eq!(read(text), ["10.0.0.1", "::1"]);
        assert!(read("").is_empty());
    }
}
