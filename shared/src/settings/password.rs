//! A database's password from a file, as container engines and orchestrators hand out secrets.

use std::{io::Read, path::PathBuf};

use clap::Args;
use url::Url;

use super::{UsageError, usage};

/// Longest password that is read, in bytes: a file that has more is another file.
const MAX_PASSWORD_BYTES: u64 = 1024;

/// Where the database's password is.
#[derive(Args, Clone, Debug)]
pub struct PasswordArgs {
    /// File with the password that the database URL leaves out, read once at the start; example: /run/secrets/command_password
    #[arg(long, env = "DATABASE_PASSWORD_FILE", value_name = "FILE", global = true)]
    pub database_password_file: Option<PathBuf>,
}

/// The password cannot be had. Says nothing of it.
#[derive(Debug, thiserror::Error)]
pub enum NoPassword {
    /// It is not there, or not ours to read.
    #[error("the password file {} cannot be read", .path.display())]
    Unreadable {
        /// Of the file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It has none, or something else.
    #[error("the password file {} must hold one line of 1 to {MAX_PASSWORD_BYTES} bytes of UTF-8", .0.display())]
    NoLine(PathBuf),
    /// Which one is meant?
    #[error("a password file was given, and the database URL has a password; leave one out")]
    TwoPasswords,
    /// It would be ignored.
    #[error("a password file was given, but no database URL; the password of an own Postgres is in its data directory")]
    NoDatabase,
}

impl PasswordArgs {
    /// The URL with the password of the file; as it is when there is no file, or it is no URL.
    ///
    /// # Errors
    /// When the file holds no password, or the URL has one.
    pub fn complete(&self, url: &str) -> Result<String, UsageError> {
        let (Some(path), Ok(mut url)) = (&self.database_password_file, Url::parse(url)) else {
            return Ok(url.to_owned());
        };
        if url.password().is_some() || url.query_pairs().any(|(name, _)| name == "password") {
            return Err(usage(NoPassword::TwoPasswords));
        }
        // As a parameter, because a URL that names a socket's directory has no place for it before a host.
        url.query_pairs_mut().append_pair("password", &password(path).map_err(usage)?);
        Ok(url.into())
    }

    /// That no file was given, where there is no URL that it could belong to.
    ///
    /// # Errors
    /// When one was.
    pub fn refuse(&self) -> Result<(), UsageError> {
        if self.database_password_file.is_some() { Err(usage(NoPassword::NoDatabase)) } else { Ok(()) }
    }
}

/// The one line of a file.
fn password(path: &PathBuf) -> Result<String, NoPassword> {
    let unreadable = |source| NoPassword::Unreadable { path: path.clone(), source };
    let mut read = vec![];
    let file = std::fs::File::open(path).map_err(unreadable)?;
    // A line's end may be two bytes.
    file.take(MAX_PASSWORD_BYTES + 3).read_to_end(&mut read).map_err(unreadable)?;
    let text = String::from_utf8(read).map_err(|_| NoPassword::NoLine(path.clone()))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    let fits = (1..=MAX_PASSWORD_BYTES).contains(&(line.len() as u64)) && !line.contains(['\n', '\r', '\0']);
    if fits { Ok(line.to_owned()) } else { Err(NoPassword::NoLine(path.clone())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(content: &[u8], url: &str) -> Result<String, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let arguments = PasswordArgs { database_password_file: Some(file.path().to_owned()) };
        arguments.complete(url).map_err(|error| error.to_string())
    }

    #[test]
    fn the_password_is_that_of_the_file_whatever_is_in_it() {
        let url = "postgres://me@h:5432/d?sslmode=require";
        assert_eq!(complete(b"plain", url).unwrap(), format!("{url}&password=plain"));
        assert_eq!(complete(b"plain\n", url).unwrap(), format!("{url}&password=plain"));
        for word in ["p@ss/w:rd?&=%41+", " a blank ", "ключ"] {
            let completed = complete(format!("{word}\r\n").as_bytes(), "postgres:///d?host=/run/postgresql").unwrap();
            let found = Url::parse(&completed).unwrap();
            let found = found.query_pairs().find(|(name, _)| name == "password").unwrap().1.into_owned();
            assert_eq!(found, word);
        }
    }

    #[test]
    fn what_is_no_password_is_refused_without_a_word_of_it() {
        for content in [&b""[..], b"\n", b"hunter2\nhunter2", b"hunter2\0", b"\xff", &[b'x'; 1025]] {
            let told = complete(content, "postgres://me@h/d").unwrap_err();
            assert!(told.contains("must hold one line of 1 to 1024 bytes") && !told.contains("hunter"), "{told}");
        }
        assert!(complete(&[b'x'; 1024], "postgres://me@h/d").is_ok());
        for url in ["postgres://me:hunter2@h/d", "postgres://me@h/d?password=hunter2"] {
            let told = complete(b"other", url).unwrap_err();
            assert!(told.contains("leave one out") && !told.contains("hunter"), "{told}");
        }
        let missing = PasswordArgs { database_password_file: Some("/does/not/exist".into()) };
        assert!(
            missing.complete("postgres://me@h/d").unwrap_err().to_string().contains("/does/not/exist cannot be read")
        );
        assert!(missing.refuse().is_err());
    }

    #[test]
    fn without_a_file_a_url_is_what_it_was() {
        let none = PasswordArgs { database_password_file: None };
        assert_eq!(none.complete("postgres://me:it@h/d").unwrap(), "postgres://me:it@h/d");
        assert!(none.refuse().is_ok());
    }
}
