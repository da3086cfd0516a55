//! What is known of programs: which of them execute or send what their arguments say, and so are never given a prefix.

/// How many words at the beginning a prefix has to fix: the program, or the program and its subcommand. None: no prefix.
pub(super) fn fixed_words(words: &[String]) -> Option<usize> {
    let program = words.first()?.as_str();
    // A path is a file that may be another one tomorrow.
    if program.contains('/') || is_never(program) {
        return None;
    }
    if is_in(READERS, program) {
        return Some(1);
    }
    let subcommand = words.get(1)?.as_str();
    let plain = subcommand.starts_with(|c: char| c.is_ascii_lowercase())
        && subcommand
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
    if !plain || is_in(RUNS, subcommand) || (program == "git" && !is_in(GIT, subcommand)) {
        return None;
    }
    Some(2)
}

/// Programs that only read and print, whatever plain words follow.
const READERS: &str = "\
    basename cat cksum cmp cut diff dirname du df echo false file groups head id ls lsblk md5sum nl nproc printenv \
    pwd readlink realpath sha1sum sha256sum sha512sum stat tail tree true uname uptime wc whoami";

/// Subcommands of git that neither execute nor send what plain words after them say.
const GIT: &str = "\
    add blame branch checkout commit describe diff log ls-files merge-base reset restore rev-list rev-parse shortlog \
    show stash status switch tag";

/// Subcommands that execute what follows, of whatever program.
const RUNS: &str = "\
    apply attach call cmd command config console create-env dlx eval exec execute invoke launch login new open repl \
    rpc run run-script runscript script sh shell spawn ssh start tool x xargs";

/// Whether no prefix is ever offered for a program.
fn is_never(program: &str) -> bool {
    // python3.12 is python, gcc-13 is gcc.
    let name = program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    name.is_empty() || is_in(NEVER, program) || is_in(NEVER, name)
}

/// The lists are words between blanks.
fn is_in(list: &str, name: &str) -> bool {
    list.split(' ').any(|one| one == name)
}

/// Shells and builtins that evaluate; interpreters; programs that execute another one or what a file says; package
/// runners and managers, which execute what they fetch; programs that send files or commands to other hosts; programs that
/// destroy whatever is named.
const NEVER: &str = "\
    . 7z 7za : R Rscript [ adb ag alias ansible ansible-playbook ansible-pull ant apk apptainer apt apt-get aptitude \
    ar aria2c as asdf ash at awk aws az bash batch bazel bc bind bpftrace bpython brew bsdtar builtin bun bundle \
    bunx busybox bwrap c++ c89 c99 cabal caller capsh cargo-script cc cd chgrp chmod chown chpst chromium chronic \
    chroot chsh clang clang++ clickhouse clisp clojure cmake cmd coffee command compgen complete composer conda \
    convert coproc corepack cp cpio cpp crictl crontab cscript csh csi ctr curl dash dbus-run-session dc dd declare \
    deno dialog direnv distrobox dmesg dnf doas docker docker-compose dotnet dpkg dpkg-deb duckdb ed elixir elvish \
    emacs entr env envsubst erl es eval ex exec exit expect export fab fakeroot faketime fc fd fdfind fdisk ffmpeg \
    find firefox firejail fish flatpak flock fossil ftp fzf g++ gawk gcc gcloud gdb gem getopts gh ghc ghci gimp \
    gitk glab gmake gnuplot go google-chrome gradle gradlew groovy gs gsutil guile halt hash hatch helm hg history \
    http https hub hyperfine iex init inotifywait insmod install invoke ionice ip iperf iptables ipython irb java \
    javac javaws jest jjs jobs jq jshell julia just kill killall kotlin kotlinc ksh kubectl latex ld ldd lein lerna \
    less let lftp link lldb ln local logger loginctl logrotate losetup lsof ltrace lua luajit lualatex lxc lynx m4 \
    magick mail make man mapfile mawk mcs meson mill minikube mise mix mkfifo mkfs mknod mksh mkswap mocha modprobe \
    mongo mongosh mono more mount mpiexec mpirun msmtp mutt mv mvn mvnw mysql nano nawk nc ncat nerdctl netcat netsh \
    newgrp nft nice nim ninja nix nix-shell nmap node nodejs nohup nox npm npx nroff nsenter nsjail nu numactl nvim \
    nx ocaml octave oksh openssl osascript pandoc parallel parted passwd patch pdflatex pdksh pdm perf perl pg \
    pg_dump php pic pico pidstat pip pipenv pipx pixi pkexec pkill pnpm pnpx podman poetry popd posh poweroff \
    powershell pre-commit proot proxychains pry psftp psql puppet pushd pwsh pypy pytest python qemu qemu-system-x \
    racket rake rbash rbenv rc read readarray readonly reboot red redis-cli reptyr restic return rg rksh rlwrap rm \
    rmdir rpm rr rscript rsh rsvg-convert rsync ruby run-mailcap run-parts runc runcon runghc runuser rush \
    rust-script rustc rustdoc rustup rview rvim rye salt sash sbatch sbcl sbt scala scheme schroot scons scp screen \
    script scsh sed sendmail service set setarch setfacl setpriv setsid sftp sg sh shift shopt shred shutdown \
    singularity slsh snap socat sort source split sqlite sqlplus srun ssh ssh-add ssh-agent ssh-keygen ssh-keyscan \
    sshpass stack start-stop-daemon stdbuf strace su sudo suspend svn swift sysctl systemctl systemd-nspawn \
    systemd-run tac tar task taskset tclsh tcpdump tcsh tee telnet terraform test tex tftp time timeout tmux toolbox \
    top torsocks tox trap troff truncate ts ts-node tsc tsx turbo type typeset ulimit umask umount unalias unbuffer \
    uniq unlink unset unshare unzip useradd usermod uv uvx vagrant valgrind vi view vim vimdiff virsh visudo vitest \
    vlc volta wait wasmer wasmtime watch watchexec wget whiptail wine wish wscript xargs xdg-open xdotool xelatex \
    xetex xonsh xterm xvfb-run xxd yarn yash yq yum zig zip zsh zypper";
