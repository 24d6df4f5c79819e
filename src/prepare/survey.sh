# What `valkeeper node` asks a host before anything of ours is on it. Read-only; POSIX; one "key value" line each.
say() { printf '%s %s\n' "$1" "$2"; }
first() { head -n 1 "$1" 2>/dev/null; }
PATH=$PATH:/usr/sbin:/sbin
echo 'valkeeper survey'
say user "$(id -un)"
if [ "$(id -u)" = 0 ]; then
    say root yes
elif sudo -n true 2>/dev/null; then
    say root sudo
elif sudo -n -l /usr/local/bin/valkeeper agent >/dev/null 2>&1; then
    say root agent
else
    say root no
fi
say system "$(uname -s)"
say machine "$(uname -m)"
say release "$( (. /etc/os-release && echo "$PRETTY_NAME") 2>/dev/null)"
say systemd "$(systemctl --version 2>/dev/null | head -n 1)"
[ -d /run/systemd/system ] && say init systemd
say server "$(command -v valkey-server)"
say version "$(valkey-server --version 2>/dev/null)"
say account "$(id -u valkey 2>/dev/null)"
say disk "$(df -Pk /var/lib/valkey 2>/dev/null | tail -n 1 || df -Pk /var/lib | tail -n 1)"
say memory "$(sed -n 's/^MemTotal: *\([0-9]*\) kB$/\1/p' /proc/meminfo)"
say available "$(sed -n 's/^MemAvailable: *\([0-9]*\) kB$/\1/p' /proc/meminfo)"
say overcommit "$(first /proc/sys/vm/overcommit_memory)"
say hugepages "$(first /sys/kernel/mm/transparent_hugepage/enabled)"
say digest "$(sha256sum /usr/local/bin/valkeeper 2>/dev/null | cut -d ' ' -f 1)"
say ours "$(/usr/local/bin/valkeeper --version 2>/dev/null)"
echo 'end of survey'
